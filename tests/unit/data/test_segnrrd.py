"""Files as Slicer writes them: header by hand, because SimpleITK writes layers differently."""

import gzip

import numpy as np
import pytest

from uncol.data.segnrrd import read_seg_nrrd
from uncol.errors import LabelError


def slicer_file(path, layers, segments):
    """`layers` `(L, I, J, K)`; `segments` a list of (name, value, layer)."""
    count, *sizes = layers.shape
    one = count == 1
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {3 if one else 4}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, sizes if one else [count, *sizes])),
        "space directions: " + ("" if one else "none ") + "(2,0,0) (0,1.5,0) (0,0,4)",
        "kinds: " + ("" if one else "list ") + "domain domain domain",
        "encoding: gzip",
        "space origin: (10,-20,30)",
    ]
    for number, (name, value, layer) in enumerate(segments):
        lines += [
            f"Segment{number}_ID:=Segment_{number + 1}",
            f"Segment{number}_Name:={name}",
            f"Segment{number}_LabelValue:={value}",
            f"Segment{number}_Layer:={layer}",
        ]
    voxels = layers[0] if one else layers
    data = gzip.compress(voxels.tobytes(order="F"))
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + data)
    return path


@pytest.fixture
def masks():
    a = np.zeros((5, 6, 7), np.uint8)
    b = a.copy()
    a[1:3, 2:4, 3] = 1
    b[3:, 4:, 5:] = 1
    return a, b


def test_one_layer(tmp_path, masks):
    a, b = masks
    layers = (a * 4 + b * 2)[None]
    path = slicer_file(tmp_path / "x.seg.nrrd", layers, [("liver", 4, 0), ("spleen", 2, 0)])
    volume, segments = read_seg_nrrd(path, case="x")
    assert segments == {"liver": 1, "spleen": 2}
    np.testing.assert_array_equal(volume.array, a + 2 * b)
    assert volume.grid.spacing_mm == (2.0, 1.5, 4.0)
    np.testing.assert_allclose(volume.grid.affine[:3, 3], [-10, 20, 30])  # LPS to RAS


def test_layers_are_put_together(tmp_path, masks):
    path = slicer_file(tmp_path / "x.seg.nrrd", np.stack(masks), [("a", 1, 0), ("b", 1, 1)])
    volume, segments = read_seg_nrrd(path, case="x")
    np.testing.assert_array_equal(volume.array, masks[0] + 2 * masks[1])
    assert segments == {"a": 1, "b": 2}


def test_overlapping_segments_are_refused(tmp_path, masks):
    both = np.stack([masks[0], np.maximum(*masks)])
    path = slicer_file(tmp_path / "x.seg.nrrd", both, [("a", 1, 0), ("b", 1, 1)])
    with pytest.raises(LabelError, match=r"case 'x'.*'a' and 'b' overlap"):
        read_seg_nrrd(path, case="x")


def test_a_file_without_segments_is_refused(tmp_path, masks):
    path = slicer_file(tmp_path / "x.seg.nrrd", masks[0][None], [])
    with pytest.raises(LabelError, match="names no segments"):
        read_seg_nrrd(path, case="x")


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "x.seg.nrrd"
    path.write_bytes(b"NRRD0004\ntype: what\n")
    with pytest.raises(LabelError, match=r"damaged.*x\.seg\.nrrd"):
        read_seg_nrrd(path, case="x")
