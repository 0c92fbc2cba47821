import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

from uncol.errors import StorageError, WeightsError
from uncol.networks import weights
from uncol.networks.weights import Download, fetch, load_checkpoint, load_state, verified_digest

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server of `CONTENT` that answers ranges, writes requests down and can hang up early."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            self.server.ranges.append(asked)
            if self.headers.get("If-Range", self.server.etag) != self.server.etag:
                asked = None  # another file than the one that the client has a part of
            if self.path != "/weights.pth":
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if not self.server.takes_ranges:
                start, asked = 0, None
            if start >= len(self.server.content):
                self.send_error(416)
                return
            body = self.server.content[start:]
            self.send_response(206 if asked else 200)
            if self.server.tells_length:
                self.send_header("Content-Length", str(len(body)))
            if self.server.etag:
                self.send_header("ETag", self.server.etag)
            self.end_headers()
            self.wfile.write(body[: self.server.hang_up_after])

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.content, running.ranges = CONTENT, []
    running.takes_ranges, running.hang_up_after = True, None
    running.tells_length, running.etag = True, ""
    running.url = f"http://127.0.0.1:{running.server_port}/weights.pth"
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_download_arrives_whole_and_is_not_repeated(server, tmp_path):
    item = Download("w.pth", server.url, DIGEST, size=len(CONTENT))
    path = fetch(item, tmp_path / "new folder")
    assert path.read_bytes() == CONTENT
    assert fetch(item, tmp_path / "new folder") == path
    assert server.ranges == [None]
    assert not list(path.parent.glob("*.partial"))


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / "w.pth.partial").write_bytes(CONTENT[:3000])
    path = fetch(Download("w.pth", server.url, DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000-"]


def test_a_connection_that_breaks_off_leaves_what_it_brought(server, tmp_path):
    server.hang_up_after = 5000
    item = Download("w.pth", server.url, None)
    with pytest.raises(WeightsError, match=r"Could not download w.pth"):
        fetch(item, tmp_path)
    assert not (tmp_path / "w.pth").exists()
    server.hang_up_after = None
    assert fetch(item, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None]  # neither checksum nor mark says that it is the same file


def test_without_a_checksum_the_publisher_s_mark_says_whether_the_rest_fits(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(weights, "CHUNK", 1000)  # what a break loses
    item = Download("w.pth", server.url, None)
    for etag, others in (('"1"', CONTENT), ('"2"', b"another version" * 1000)):
        server.etag, server.content, server.hang_up_after = '"1"', CONTENT, 5000
        with pytest.raises(WeightsError, match="Could not download"):
            fetch(item, tmp_path)
        server.etag, server.content, server.hang_up_after = etag, others, None
        assert fetch(item, tmp_path).read_bytes() == others
        assert server.ranges[-1] == "bytes=5000-"
        assert not list(tmp_path.glob("*.etag"))
        for made in tmp_path.glob("w.pth*"):
            made.unlink()


def test_a_reply_that_may_be_cut_anywhere_is_not_pinned_as_weights(server, tmp_path):
    server.tells_length = False
    with pytest.raises(WeightsError, match="without its length"):
        fetch(Download("w.pth", server.url, None), tmp_path)
    assert fetch(Download("w.pth", server.url, DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_it_all_again(server, tmp_path):
    server.takes_ranges = False
    (tmp_path / "w.pth.partial").write_bytes(b"something else entirely")
    assert fetch(Download("w.pth", server.url, DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_download_that_was_complete_already_is_only_checked(server, tmp_path):
    (tmp_path / "w.pth.partial").write_bytes(CONTENT)
    assert fetch(Download("w.pth", server.url, DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_removes_the_file_and_says_what_to_do(server, tmp_path):
    with pytest.raises(
        WeightsError, match=r"expected 0000.*fetch it again \(uncol weights fetch\)"
    ):
        fetch(Download("w.pth", server.url, "0" * 64), tmp_path)
    assert not list(tmp_path.glob("w.pth")) + list(tmp_path.glob("*.partial"))


def test_a_resumed_download_of_something_else_starts_over_next_time(server, tmp_path):
    (tmp_path / "w.pth.partial").write_bytes(b"x" * 3000)
    item = Download("w.pth", server.url, DIGEST)
    with pytest.raises(WeightsError, match="sha256"):
        fetch(item, tmp_path)
    assert fetch(item, tmp_path).read_bytes() == CONTENT


def test_a_wrong_length_is_refused_and_removed(server, tmp_path):
    with pytest.raises(WeightsError, match="arrived with 10240 bytes, expected 99"):
        fetch(Download("w.pth", server.url, None, size=99), tmp_path)
    assert not list(tmp_path.glob("w.pth")) + list(tmp_path.glob("*.partial"))


def test_a_refused_connection_names_the_ways_without_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    item = Download("w.pth", f"http://127.0.0.1:{port}/w.pth", None)
    with pytest.raises(
        WeightsError, match=r"copy the file to .*w\.pth by hand.*litemedsam"
    ) as caught:
        fetch(item, tmp_path)
    assert "ConnectionError" in str(caught.value)


def test_a_moved_file_is_a_clear_error_too(server, tmp_path):
    item = Download("w.pth", server.url.replace("weights", "moved"), None)
    with pytest.raises(WeightsError, match=r"Could not download w.pth from .*moved"):
        fetch(item, tmp_path)
    assert not (tmp_path / "w.pth").exists()


def test_without_a_published_checksum_the_first_download_is_remembered(server, tmp_path):
    item = Download("w.pth", server.url, None)
    path = fetch(item, tmp_path)
    assert (tmp_path / "w.pth.sha256").read_text().strip() == DIGEST
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError, match=f"expected {DIGEST}.*damaged or another version"):
        fetch(item, tmp_path)


def test_a_file_put_there_by_hand_needs_no_network(tmp_path):
    (tmp_path / "w.pth").write_bytes(CONTENT)
    item = Download("w.pth", "http://127.0.0.1:9/none", DIGEST)
    assert fetch(item, tmp_path) == tmp_path / "w.pth"


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="choose another model_dir"):
        fetch(Download("w.pth", "http://127.0.0.1:9/none", None), tmp_path / "file" / "weights")


def test_a_digest_is_the_file_s_sha256(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert verified_digest(tmp_path / "w", expected) == expected


def test_a_missing_file_points_at_the_setting(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pth does not exist.*teacher_weights"):
        verified_digest(tmp_path / "gone.pth", None)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("entry", [None, "model"])
def test_a_checkpoint_fills_the_network(tmp_path, network, entry):
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    torch.save(state if entry is None else {entry: state, "epoch": 3}, tmp_path / "w.pth")
    load_checkpoint(network, tmp_path / "w.pth", entry=entry)
    assert network(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]


def test_a_plain_state_is_taken_even_where_an_entry_is_usual(tmp_path, network):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    load_checkpoint(network, tmp_path / "w.pth", entry="model")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x80\x04garbage", b"PK\x03\x04" + b"\0" * 50, b"<html>not found"]
)
def test_garbage_cannot_be_read(tmp_path, network, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read.*uncol weights fetch"):
        load_checkpoint(network, tmp_path / "w.pth")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_cannot_be_read(tmp_path, network, kept, zipped):
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read"):
        load_checkpoint(network, path)


def test_a_missing_checkpoint_cannot_be_read(tmp_path, network):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(network, tmp_path / "gone.pth")


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from the checkpoint ran')",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, network):
    torch.save({"weight": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(network, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(3), {"weight": 3, "bias": "b"}, 7])
def test_a_file_that_holds_no_state_does_not_fit(tmp_path, network, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth does not fit Linear.*name another file"):
        load_checkpoint(network, tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2, 3)}, r"missing: bias"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)},
            "unknown: more",
        ),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"wrong shape: weight\)"),
    ],
)
def test_weights_of_another_network_are_refused_untouched(network, state, message):
    before = network.weight.clone()
    with pytest.raises(WeightsError, match=rf"in w do not fit Linear.*{message}.*another network"):
        load_state(network, state, origin="w")
    assert torch.equal(network.weight, before)


def test_only_the_first_few_keys_are_listed(network):
    state = network.state_dict() | {f"k{n}": torch.ones(1) for n in range(9)}
    with pytest.raises(WeightsError, match=r"k0, k1, k2, k3, k4 \.\.\."):
        load_state(network, state, origin="w")


def test_a_proxys_login_page_is_not_pinned_as_weights(server, tmp_path):
    server.content = b"  <!DOCTYPE html><html>Please log in</html>"
    item = Download(
        "weights.pth", f"http://127.0.0.1:{server.server_address[1]}/weights.pth", None, None
    )
    with pytest.raises(WeightsError, match="web page"):
        fetch(item, tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
