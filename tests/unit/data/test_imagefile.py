"""Files as viewers read them: ITK is the second reader, and no value is guessed."""

import bz2
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from PIL import Image
from scipy.spatial.transform import Rotation

from uncol.data.grid import LPS_TO_RAS, Grid, Volume, on_grid
from uncol.data.imagefile import doubt
from uncol.data.scan import read_grid, read_label, read_scan, write_volume
from uncol.errors import LabelError, ScanError

SHAPE = (4, 5, 6)
VALUES = np.arange(120, dtype=np.float32).reshape(SHAPE)


@st.composite
def affines(draw):
    turn = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    spacing = draw(st.tuples(*[st.floats(1.1, 8.0)] * 3))
    flips = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    affine = np.eye(4)
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine[:3, :3] = matrix @ np.diag(np.array(spacing) * flips)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def itk_place(path, index):
    """Return where ITK says that a voxel lies, RAS mm."""
    point = sitk.ReadImage(str(path)).TransformContinuousIndexToPhysicalPoint(index)
    return (LPS_TO_RAS @ [*point, 1])[:3]


@given(
    sform=affines(),
    qform=affines(),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    units=st.sampled_from(["mm", "unknown", "micron", "meter"]),
)
def test_any_header_is_read_as_itk_does(sform, qform, codes, units):
    image = nib.Nifti1Image(VALUES, None)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    image.header.set_xyzt_units(units)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.nii"
        nib.save(image, path)
        try:
            sitk.ReadImage(str(path))
        except RuntimeError:  # no viewer reads it, and neither do we
            with pytest.raises(ScanError):
                read_grid(path, case="it")
            return
        grid = read_grid(path, case="it")
        for index in ((0, 0, 0), (3, 4, 5), (1.0, 2.5, 0.0)):
            place = apply_affine(grid.affine, index)
            np.testing.assert_allclose(place, itk_place(path, index), atol=1e-3, rtol=1e-5)


@given(affines())
def test_both_libraries_read_what_we_write_at_one_place(affine):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.nii"
        write_volume(path, VALUES, Grid(SHAPE, affine))
        assert doubt(path) == ""
        np.testing.assert_allclose(nib.load(path).affine, affine, atol=1e-3)
        np.testing.assert_allclose(read_grid(path, case="it").affine, affine, atol=1e-3)
        np.testing.assert_allclose(
            itk_place(path, (3, 4, 5)), apply_affine(affine, (3, 4, 5)), atol=1e-2
        )


@pytest.mark.parametrize("unclear", ["both codes 0", "moved", "pixdim", "micron"])
def test_a_header_that_can_be_read_in_two_ways_is_told(tmp_path, unclear):
    affine = np.diag([-1.5, -1.5, 2, 1])
    image = nib.Nifti1Image(VALUES, affine)
    if unclear == "both codes 0":
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    elif unclear == "moved":  # as SPM leaves it
        moved = affine.copy()
        moved[:3, 3] += [5, -7, 9]
        image.set_qform(moved, 1)
        image.set_sform(affine, 2)
    elif unclear == "pixdim":
        image.header["pixdim"][1:4] = 1
    else:
        image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "it.nii")
    assert "two ways" in doubt(tmp_path / "it.nii")
    assert read_grid(tmp_path / "it.nii", case="it").spacing_mm == pytest.approx((1.5, 1.5, 2))


def test_a_sheared_grid_is_refused_in_words(tmp_path):
    affine = np.diag([-1.5, -1.5, 2, 1])
    affine[0, 1] = 0.4
    nib.save(nib.Nifti1Image(VALUES, affine), tmp_path / "it.nii")
    with pytest.raises(ScanError, match=r"right angles.*Resample"):
        read_scan(tmp_path / "it.nii")


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
@pytest.mark.parametrize("read", [read_scan, read_label])
def test_several_values_per_voxel_are_never_taken_for_one(tmp_path, channels, ending, read):
    image = sitk.GetImageFromArray(
        np.random.default_rng(0).normal(size=(6, 5, 4, channels)).astype("f4"), isVector=True
    )
    sitk.WriteImage(image, str(tmp_path / f"it{ending}"))
    with pytest.raises((ScanError, LabelError), match=r"Split"):
        read(tmp_path / f"it{ending}")


MASK = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)  # (J, I)


def picture(path, kind):
    grey = Image.fromarray(MASK)
    if kind == "palette":
        grey = Image.fromarray(MASK, "P")
        grey.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    elif kind == "1-bit":
        grey = Image.fromarray(MASK > 0)
    elif kind == "grey and alpha":
        grey = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    elif kind == "RGBA":
        grey = Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, 255)))
    elif kind == "16 bits":
        grey = Image.fromarray(MASK.astype(np.uint16) * 1000)
    grey.save(path, dpi=(300, 300))
    return path


@pytest.mark.parametrize("kind", ["grey", "palette", "1-bit", "grey and alpha", "RGBA", "16 bits"])
def test_a_mask_has_the_values_that_it_was_saved_with(tmp_path, kind):
    values = read_label(picture(tmp_path / "it.png", kind)).array[..., 0].T
    wanted = {"1-bit": (MASK > 0), "16 bits": MASK.astype(int) * 1000}.get(kind, MASK)
    np.testing.assert_array_equal(values, wanted)


def test_a_colour_picture_is_no_mask(tmp_path):
    Image.fromarray(np.stack([MASK, MASK[::-1], MASK], -1)).save(tmp_path / "it.png")
    with pytest.raises(LabelError, match="colour picture; save the mask in grey"):
        read_label(tmp_path / "it.png")
    assert read_scan(tmp_path / "it.png").array.shape == (3, 2, 1)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("dpi", [None, 72, 300])
def test_a_picture_lies_at_one_place_whatever_its_resolution_says(tmp_path, ending, dpi):
    path = tmp_path / f"it{ending}"
    Image.fromarray(MASK * 90).save(path, **({"dpi": (dpi, dpi)} if dpi else {}))
    assert read_grid(path, case="it").spacing_mm == (1, 1, 1)


@pytest.mark.parametrize(
    "name", ["A.NII.GZ", "a.Nii.gz", "a.NRRD", "a.Mha", "a.MHA", "a.PNG", "a.Jpeg", "a.TIF"]
)
def test_extensions_may_be_in_capitals(tmp_path, name):
    lower = tmp_path / f"x{name[1:].lower()}"
    flat = name[1:].lower() in (".png", ".jpeg", ".tif")
    values = VALUES[..., :1].astype(np.uint8) if flat else VALUES
    write_volume(lower, values, Grid((*values.shape,), np.diag([-1.0, -1, 1, 1])))
    expected = read_scan(lower)
    os.replace(lower, tmp_path / name)
    np.testing.assert_array_equal(read_scan(tmp_path / name).array, expected.array)


def test_a_link_to_a_blob_is_read_by_the_link_s_name(tmp_path):
    write_volume(tmp_path / "x.nii.gz", VALUES, Grid(SHAPE, np.eye(4)))
    os.replace(tmp_path / "x.nii.gz", tmp_path / "0123abcd")
    (tmp_path / "hub.nii.gz").symlink_to(tmp_path / "0123abcd")
    np.testing.assert_array_equal(read_scan(tmp_path / "hub.nii.gz").array, VALUES)
    (tmp_path / "0123abcd").unlink()
    with pytest.raises(ScanError, match=r"a link to .*0123abcd, which is not there"):
        read_scan(tmp_path / "hub.nii.gz")


def test_a_folder_in_a_scan_s_place_is_said(tmp_path):
    (tmp_path / "it.nii.gz").mkdir()
    with pytest.raises(ScanError, match=r"cannot be read.*Is a directory"):
        read_scan(tmp_path / "it.nii.gz")


def test_a_bzip2_nrrd_is_refused_in_words(tmp_path):
    head = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 5 6\nencoding: bzip2\n\n"
    (tmp_path / "it.nrrd").write_bytes(head + bz2.compress(VALUES.astype(np.uint8).tobytes("F")))
    with pytest.raises(ScanError, match="bzip2"):
        read_scan(tmp_path / "it.nrrd")


@given(order=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3), affine=affines())
def test_a_label_in_another_order_of_axes_on_the_same_place_is_the_same(order, flips, affine):
    orientation = np.array(
        [[axis, -1 if flip else 1] for axis, flip in zip(order, flips, strict=True)]
    )
    turned = nib.orientations.apply_orientation(VALUES, orientation)
    own = affine @ nib.orientations.inv_ornt_aff(orientation, SHAPE)
    moved = on_grid(Volume(turned, Grid(turned.shape, own)), Grid(SHAPE, affine))
    np.testing.assert_array_equal(moved, VALUES)
    away = own.copy()
    away[:3, 3] += affine[:3, 0] * 0.5
    assert on_grid(Volume(turned, Grid(turned.shape, away)), Grid(SHAPE, affine)) is None
