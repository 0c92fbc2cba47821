import nibabel as nib
import numpy as np
import pytest

from uncol.data.cases import Case
from uncol.data.frame import Space, choose_space
from uncol.data.scan import read_grid
from uncol.training.resolution import coarsen

LABELS = {"organ": 1, "duct": 2}


@pytest.fixture
def make_case(tmp_path):
    """Write a scan whose label is a ball of some radius, with a duct of some width beside it."""

    def make(name, radius, *, duct=0, shape=(64, 64, 64), spacing=(1, 1, 1), partly=False):
        middle = (np.array(shape) - 1) / 2
        distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - middle, axis=-1)
        label = (distance < radius).astype(np.uint8)
        if duct:
            label[: shape[0] // 2, 2 : 2 + duct, 2 : 2 + duct] = 2
        if partly:
            label[label == 0] = 255
        affine = np.diag([*spacing, 1.0])
        paths = [tmp_path / f"{name}.{part}.nii.gz" for part in ("image", "label")]
        for path, array in zip(paths, (np.zeros(shape, np.float32), label), strict=True):
            nib.save(nib.Nifti1Image(array, affine), path)
        return Case(name, *paths)

    return make


def chosen(cases, *, voxels, flat=False):
    own = choose_space([read_grid(case.image, case=case.name) for case in cases])
    return own, coarsen(own, cases, LABELS, voxels=voxels, flat=flat)


def test_a_structure_that_fits_a_crop_keeps_its_voxels(make_case):
    own, space = chosen([make_case("a", 12)], voxels=40**3)
    assert space == own


def test_a_large_one_is_seen_whole(make_case):
    _, space = chosen([make_case("a", 30)], voxels=40**3)
    assert space.spacing_mm == (2.0, 2.0, 2.0)  # 60 voxels and some around, 38 of them at 2 mm


def test_a_thin_label_bounds_how_coarse_voxels_get(make_case):
    own, space = chosen([make_case("a", 30, duct=2)], voxels=20**3)
    assert space.spacing_mm[0] < 2
    own, thick = chosen([make_case("b", 30)], voxels=20**3)
    assert thick.spacing_mm[0] > space.spacing_mm[0] >= own.spacing_mm[0]


def test_thick_slices_are_left_alone_until_voxels_are_as_long(make_case):
    case = make_case("a", 30, shape=(64, 64, 24), spacing=(1, 1, 4))
    own, space = chosen([case], voxels=32**3)
    assert own.spacing_mm == (1, 1, 4)
    assert space.spacing_mm == (2, 2, 4)  # 32 x 32 in 24 slices


def test_slices_grow_within_themselves_alone(make_case):
    _, space = chosen([make_case("a", 30)], voxels=32**2, flat=True)
    assert space.spacing_mm == (2, 2, 1)


def test_it_does_not_depend_on_a_scans_axes(make_case, tmp_path):
    case = make_case("a", 30, shape=(64, 64, 48), spacing=(1, 1, 2))
    for path in (case.image, case.label):
        image = nib.load(path)
        turned = image.as_reoriented(nib.orientations.axcodes2ornt("SLP"))
        nib.save(turned, path.with_name("turned." + path.name))
    other = Case("b", *(p.with_name("turned." + p.name) for p in (case.image, case.label)))
    assert chosen([case], voxels=30**3)[1] == chosen([other], voxels=30**3)[1]


def test_what_is_not_annotated_does_not_count(make_case):
    _, space = chosen([make_case("a", 30, partly=True)], voxels=40**3)
    assert space.spacing_mm == (2.0, 2.0, 2.0)


def test_a_case_that_cannot_be_read_is_not_looked_at(make_case, tmp_path):
    damaged = make_case("a", 30)
    damaged.label.write_bytes(b"nothing")
    own = Space("RAS", (1.0, 1.0, 1.0))
    assert coarsen(own, [damaged], LABELS, voxels=20**3, flat=False) == own
    both = [damaged, make_case("b", 30)]
    assert coarsen(own, both, LABELS, voxels=40**3, flat=False).spacing_mm == (2.0, 2.0, 2.0)
