"""The picture page holds all it shows."""

import re

import numpy as np

from uncol.demo.page import write_page
from uncol.demo.session import DemoResult

LABELS = {"core & rim": 1, "tail": 2}
PNG = b"\x89PNG\r\n"


def _result(case: str) -> DemoResult:
    generator = np.random.default_rng(0)
    truth = np.zeros((8, 9, 10), dtype=np.int32)
    truth[2:5, 3:6, 4:8] = 1
    truth[5:7, 3:6, 4:8] = 2
    scan, unsure = generator.random((2, *truth.shape), dtype=np.float32)
    return DemoResult(
        case, scan, truth, truth.copy(), unsure, {"core & rim": 1.0, "tail": float("nan")}, 0.9
    )


def test_page_is_self_contained_and_shows_every_case(tmp_path):
    results = [_result(case) for case in ("first", "second", "third", "fourth")]
    picture = write_page(tmp_path / "page.html", results, LABELS, "A <summary>.")
    text = (tmp_path / "page.html").read_text()
    sources = re.findall(r'src="([^"]{30})', text)
    assert len(sources) == len(results)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert picture.read_bytes().startswith(PNG)


def test_page_escapes_what_it_was_given(tmp_path):
    write_page(tmp_path / "page.html", [_result("a<b")], LABELS, "A <summary>.")
    text = (tmp_path / "page.html").read_text()
    assert "a&lt;b" in text
    assert "core &amp; rim" in text
    assert "A &lt;summary&gt;." in text
