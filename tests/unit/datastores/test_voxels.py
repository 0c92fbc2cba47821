"""What is drawn, stored, downloaded and trained on are the same voxels."""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from studies_folder import open_folder

from uncol.data.annotation import read_annotation
from uncol.data.grid import Grid
from uncol.data.scan import read_grid, read_label, write_volume
from uncol.data.segnrrd import write_seg_nrrd
from uncol.datastores.pool import case_of

APP = {"liver": 1, "spleen": 2, "left kidney": 3}
SCANS = (".nii.gz", ".nii", ".nrrd", ".mha")
LABELS = (*SCANS, ".seg.nrrd")


@st.composite
def grids(draw):
    turn = draw(st.sampled_from([(0, 0, 0), (90, 0, 0), (12, -8, 5)]))
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3))
    flips = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine[:3, :3] *= np.array(spacing) * flips
    affine[:3, 3] = draw(st.tuples(*[st.integers(-90, 90)] * 3))
    return Grid((6, 5, 4), affine)


def turned(array, grid, order, flips):
    """Return a label on another order of axes at the same place, as some viewers store it."""
    orientation = np.array([[axis, 1 - 2 * flip] for axis, flip in zip(order, flips, strict=True)])
    moved = nib.orientations.apply_orientation(array, orientation)
    affine = grid.affine @ nib.orientations.inv_ornt_aff(orientation, array.shape)
    return moved, Grid(moved.shape, affine)


@settings(max_examples=60)
@given(
    grid=grids(),
    scan=st.sampled_from(SCANS),
    ending=st.sampled_from(LABELS),
    names=st.permutations(list(APP)),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    seed=st.integers(0, 99),
)
def test_a_label_stays_the_same_from_the_viewer_to_the_student(
    grid, scan, ending, names, order, flips, seed
):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 4, grid.shape).astype(np.uint8)  # values in the order of `names`
    drawn[0, 0, :3] = 1, 2, 3
    wanted = np.select([drawn == v for v in (1, 2, 3)], [APP[name] for name in names], 0)
    with tempfile.TemporaryDirectory() as folder:
        studies, sent = Path(folder) / "studies", Path(folder) / f"label{ending}"
        studies.mkdir()
        write_volume(studies / f"one{scan}", rng.normal(size=grid.shape).astype(np.float32), grid)
        array, own = turned(drawn, grid, order, flips)
        if ending == ".seg.nrrd":
            write_seg_nrrd(sent, array, own, names)
        else:
            write_volume(sent, array, own)
        store = open_folder(studies, labels=APP)
        info = [{"name": name, "idx": place} for place, name in enumerate(names, start=1)]
        store.save_label("one", str(sent), "final", {"label_info": info})

        stored = Path(store.get_label_uri("one", "final"))  # it is what a client downloads
        np.testing.assert_array_equal(read_label(stored).array, wanted)
        place = read_grid(studies / f"one{scan}", case="one")
        assert read_label(stored).grid.matches(place)
        trained = read_annotation(case_of(store, "one"), place, APP)
        np.testing.assert_array_equal(trained, wanted)
