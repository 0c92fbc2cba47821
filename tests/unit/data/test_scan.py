import gzip
import struct
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from uncol.data.grid import Grid
from uncol.data.imagefile import file_extension
from uncol.data.scan import read_grid, read_label, read_scan, write_volume
from uncol.data.segnrrd import read_seg_nrrd
from uncol.errors import LabelError, ScanError, StorageError, UncolError

OBLIQUE = np.array(
    [[0.9, -0.2, 0.1, -20.0], [0.2, 0.9, 0.3, 12.0], [-0.3, -0.2, 3.0, 55.0], [0, 0, 0, 1.0]]
)
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [-0.8, 0.8, 3.0]


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), OBLIQUE])
def test_a_written_volume_reads_back_with_its_voxels_and_its_place(
    tmp_path, values, extension, affine
):
    path = tmp_path / f"map{extension}"
    write_volume(path, values, Grid(values.shape, affine))
    back = read_scan(path)
    np.testing.assert_array_equal(back.array, values)
    np.testing.assert_allclose(back.grid.affine, affine, atol=1e-4)


def test_nibabel_and_simpleitk_agree_on_where_voxels_lie(tmp_path, values):
    nifti, meta = tmp_path / "scan.nii.gz", tmp_path / "scan.mha"
    nib.save(nib.Nifti1Image(values, OBLIQUE), str(nifti))
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(meta))
    ours, theirs = read_scan(nifti), read_scan(meta)
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.grid.matches(theirs.grid, tolerance_voxels=1e-3)


def test_a_png_has_one_slice_and_columns_first(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns
    Image.fromarray(pixels).save(tmp_path / "slice.png")
    scan = read_scan(tmp_path / "slice.png")
    assert scan.array.shape == (4, 3, 1)
    assert scan.array[3, 1, 0] == pixels[1, 3]


def test_a_colour_png_becomes_grey_by_luma(tmp_path):
    pixels = np.zeros((3, 4, 3), dtype=np.uint8)
    pixels[0, 0], pixels[1, 2] = (255, 0, 0), (0, 100, 0)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    array = read_scan(tmp_path / "photo.png").array
    assert array[0, 0, 0] == pytest.approx(76.245)  # 0.299 * 255
    assert array[2, 1, 0] == pytest.approx(58.7)


def test_a_2d_label_written_as_png_keeps_shape_and_values(tmp_path):
    label = np.zeros((4, 3, 1), dtype=np.uint8)
    label[3, 1] = 2
    write_volume(tmp_path / "label.png", label, Grid(label.shape, np.diag([-1.0, -1, 1, 1])))
    np.testing.assert_array_equal(read_label(tmp_path / "label.png").array, label)


def test_a_trailing_axis_of_one_is_dropped(write_nifti, values):
    assert read_scan(write_nifti(values[..., None])).array.shape == values.shape


@pytest.mark.parametrize(
    ("name", "extension"),
    [("A.NII.GZ", ".nii.gz"), ("a.b.seg.nrrd", ".seg.nrrd"), ("a.b.PNG", ".png"), ("a", "")],
)
def test_the_extension_is_found(name, extension):
    assert file_extension(name) == extension


def test_a_missing_scan_is_named(tmp_path):
    with pytest.raises(ScanError, match=r"'patient 7' is missing: .*gone\.nii\.gz"):
        read_scan(tmp_path / "gone.nii.gz", case="patient 7")


def test_a_missing_label_is_a_label_error(tmp_path):
    with pytest.raises(LabelError, match=r"label file of case 'patient 7' is missing"):
        read_label(tmp_path / "gone.nii.gz", case="patient 7")


@pytest.mark.parametrize("kept", [0, 40, 400, 0.5, 0.98])
def test_a_truncated_nifti_says_to_copy_it_again(tmp_path, write_nifti, kept):
    content = write_nifti(np.random.default_rng(0).normal(size=(12, 12, 12))).read_bytes()
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ScanError, match=r"case 'cut.nii.gz' is damaged.*export the file again"):
        read_scan(path)


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.png", "scan.nii", "scan.nii.gz", "scan.mha"])
@pytest.mark.parametrize("content", [b"", b"NRRD0004\nnot a header", b"garbage" * 100])
def test_garbage_is_damaged_whatever_its_extension(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"case 'p1' is damaged.*export the file again"):
        read_scan(path, case="p1")


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (40, b"\xff\xff"),  # dim[0] = -1
        (42, b"\xff\x7f\xff\x7f\xff\x7f"),  # 32767 voxels per side
        (70, b"\xfe\x7f"),  # an unknown datatype
        (108, b"\x00\x00\xc0\x7f"),  # voxels start at NaN
        (344, b"bad\x00"),  # another magic
    ],
)
def test_a_damaged_nifti_header_is_a_scan_error(tmp_path, write_nifti, offset, content):
    raw = bytearray(gzip.decompress(write_nifti(np.random.rand(6, 6, 6)).read_bytes()))
    raw[offset : offset + len(content)] = content
    path = tmp_path / "header.nii"
    path.write_bytes(bytes(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ScanError, match=r"'header.nii'.*again|'header.nii' has shape"):
            read_scan(path)


def test_a_damaged_label_is_a_label_error(tmp_path):
    path = tmp_path / "label.seg.nrrd"
    path.write_bytes(b"garbage")
    with pytest.raises(LabelError, match=r"label of case 'p1' is damaged"):
        read_label(path, case="p1")


@pytest.mark.parametrize("value", [0.0, 7.0, -1024.0])
def test_a_constant_scan_is_empty(write_nifti, value):
    path = write_nifti(np.full((4, 4, 4), value, dtype=np.float32))
    with pytest.raises(ScanError, match=r"case 'p1' is empty.*out of the studies folder"):
        read_scan(path, case="p1")


def test_nan_and_infinite_voxels_are_counted(write_nifti, values):
    values[0, 0, :3] = np.nan
    values[1, 1, 1] = np.inf
    with pytest.raises(ScanError, match=r"case 'p1' has 4 voxels that are NaN.*Export it again"):
        read_scan(write_nifti(values), case="p1")


@pytest.mark.parametrize("shape", [(4, 4, 4, 3), (4, 4, 4, 1, 3)])
def test_a_time_series_is_refused_with_its_shape(write_nifti, shape):
    path = write_nifti(np.random.default_rng(0).normal(size=shape))
    with pytest.raises(ScanError, match=r"case 'p1' has shape \(4, 4, 4.*Split"):
        read_scan(path, case="p1")


def test_a_label_with_fractions_is_refused(write_nifti):
    label = np.zeros((4, 4, 4), dtype=np.float32)
    label[1, 1, 1] = 0.5
    with pytest.raises(LabelError, match=r"case 'p1'.*not whole numbers.*as a label map"):
        read_label(write_nifti(label), case="p1")


def test_a_label_with_nan_is_refused(write_nifti):
    label = np.zeros((4, 4, 4), dtype=np.float32)
    label[1, 1, 1] = np.nan
    with pytest.raises(LabelError, match=r"case 'p1'.*not whole numbers"):
        read_label(write_nifti(label), case="p1")


def test_a_label_of_whole_floats_becomes_int32(write_nifti):
    label = np.zeros((4, 4, 4), dtype=np.float32)
    label[1, 2, 3] = 3.0
    back = read_label(write_nifti(label))
    assert back.array.dtype == np.int32
    assert back.array[1, 2, 3] == 3


def test_an_empty_label_can_be_read(write_nifti):
    assert not read_label(write_nifti(np.zeros((4, 4, 4), dtype=np.uint8))).array.any()


@pytest.mark.parametrize("name", ["map.nii.gz", "map.nrrd"])
def test_writing_into_a_missing_folder_says_what_to_check(tmp_path, values, name):
    with pytest.raises(StorageError, match="check the permissions"):
        write_volume(tmp_path / "gone" / name, values, Grid(values.shape, np.eye(4)))


def test_spacing_is_the_length_of_the_columns():
    affine = np.array([[0, 0, 2.0, 0], [3.0, 0, 0, 0], [4.0, 0.5, 0, 0], [0, 0, 0, 1]])
    assert Grid((2, 2, 2), affine).spacing_mm == pytest.approx((5.0, 0.5, 2.0))


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.floats(-0.04, 0.04)] * 3),
)
def test_grids_match_within_a_tenth_of_a_voxel(shape, shift):
    affine = OBLIQUE.copy()
    affine[:3, 3] += shift  # the smallest voxel side is 0.8 mm, so 0.04 is inside
    assert Grid(shape, OBLIQUE).matches(Grid(shape, affine))


@given(st.tuples(*[st.integers(2, 40)] * 3), st.integers(0, 2), st.sampled_from([-1, 1]))
def test_grids_do_not_match_a_quarter_of_a_voxel_off(shape, axis, sign):
    affine = OBLIQUE.copy()
    affine[axis, 3] += sign * 0.2
    assert not Grid(shape, OBLIQUE).matches(Grid(shape, affine))


@given(st.tuples(*[st.integers(2, 9)] * 3), st.integers(0, 2))
def test_a_flipped_grid_does_not_match(shape, axis):
    affine = OBLIQUE.copy()
    affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
    affine[:3, axis] *= -1
    assert not Grid(shape, OBLIQUE).matches(Grid(shape, affine))


def test_a_small_rotation_matters_at_the_far_corner_only():
    angle = np.radians(0.2)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    small, large = (10, 10, 10), (100, 100, 10)  # 9 and 99 voxels times 0.0035
    assert Grid(small, np.eye(4)).matches(Grid(small, turn))
    assert not Grid(large, np.eye(4)).matches(Grid(large, turn))


def test_another_shape_never_matches():
    assert not Grid((4, 4, 4), np.eye(4)).matches(Grid((4, 4, 5), np.eye(4)))


@pytest.mark.parametrize("read", [read_scan, read_label, lambda path: read_grid(path, case="it")])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_header_that_promises_a_billion_voxels_is_refused_before_they_are_read(
    tmp_path, read, ending
):
    path = tmp_path / f"bomb{ending}"
    if ending.startswith(".nii"):
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape((1000, 1000, 1000))
        header["vox_offset"], header["magic"] = 352, b"n+1"
        raw = header.binaryblock + bytes(4)
        path.write_bytes(gzip.compress(raw + bytes(10**6)) if ending == ".nii.gz" else raw)
    elif ending == ".nrrd":
        path.write_bytes(
            b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1000 1000 1000\nencoding: gzip\n\n"
            + gzip.compress(bytes(10**6))
        )
    else:
        path.write_bytes(
            b"ObjectType = Image\nNDims = 3\nDimSize = 1000 1000 1000\n"
            b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
        )
    with pytest.raises(UncolError, match="1000 x 1000 x 1000 voxels"):
        read(path)


@pytest.mark.parametrize("spacing", [1e-6, 5e3])
def test_voxels_that_no_scanner_makes_are_refused(tmp_path, spacing):
    path = tmp_path / "odd.nii.gz"
    affine = np.diag([spacing, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(np.random.rand(4, 4, 4), affine), path)
    with pytest.raises(ScanError, match="true voxel size"):
        read_scan(path)


def header(shape, code, size, offset=352.0):
    block = bytearray(348)
    struct.pack_into("<i", block, 0, 348)
    struct.pack_into("<8h", block, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<hh", block, 70, code, size * 8)
    struct.pack_into("<8f", block, 76, *[1.0] * 8)
    struct.pack_into("<f", block, 108, offset)
    block[344:348] = b"n+1\0"
    return bytes(block) + b"\1\0\0\0" + struct.pack("<ii", int(offset) - 352, 4)


@pytest.mark.parametrize(
    ("shape", "code", "size", "offset", "words"),
    [
        ((8, 8, 8), 2, 1, 352.0 + 2**30, "extension"),
        ((8, 8, 8), 32, 8, 352.0, "complex"),
        ((2000, 2000, 2000), 2, 1, 352.0, "at most"),
        ((600, 600, 600), 2048, 32, 352.0, "damaged"),
    ],
)
def test_a_small_upload_that_asks_for_much_memory_is_refused(
    tmp_path, shape, code, size, offset, words
):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header(shape, code, size, offset) + b"\0" * 4096))
    tracemalloc.start()
    with pytest.raises(LabelError, match=words):
        read_label(path, case="bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 2**20


@pytest.mark.parametrize("name", ["bomb.nrrd", "bomb.seg.nrrd"])
def test_components_count(tmp_path, name):
    head = (
        "NRRD0005\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\n"
        "sizes: 64 400 400 400\nspace directions: none (1,0,0) (0,1,0) (0,0,1)\n"
        "kinds: list domain domain domain\nendian: little\nencoding: gzip\n"
        "space origin: (0,0,0)\nSegment0_Name:=a\nSegment0_LabelValue:=1\n\n"
    )
    (tmp_path / name).write_bytes(head.encode() + gzip.compress(b"\0" * 4096))
    read = read_seg_nrrd if name.endswith(".seg.nrrd") else read_label
    with pytest.raises(LabelError, match="at most"):
        read(tmp_path / name, case="bomb")
