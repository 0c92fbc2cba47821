import nibabel as nib
import numpy as np
import pytest
import torch

from uncol.data import prepared as module
from uncol.data.annotation import annotated
from uncol.data.cases import Case
from uncol.data.frame import Space
from uncol.data.labels import IGNORE_VALUE
from uncol.data.prepared import CaseStore
from uncol.errors import LabelError, ScanError, StorageError
from uncol.storage.files import file_digest

SPACE = Space("RAS", (1.0, 1.0, 1.0))
LABELS = {"liver": 1, "spleen": 2}


@pytest.fixture
def files(tmp_path):
    """A scan of 6 x 8 x 4 in LPS with a bright voxel and a label on it."""
    affine = np.diag([-1.0, -1, 2, 1])
    scan = np.random.default_rng(0).normal(size=(6, 8, 4)).astype(np.float32)
    label = np.zeros((6, 8, 4), dtype=np.uint8)
    label[1, 2, 3], label[4, 5, 1] = 1, 2
    scan[1, 2, 3] = 50
    for name, array in (("scan", scan), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), str(tmp_path / f"{name}.nii.gz"))
    return Case("p1", tmp_path / "scan.nii.gz", tmp_path / "label.nii.gz")


@pytest.fixture
def store(tmp_path):
    return CaseStore(tmp_path / "store", SPACE, modality="mr", labels=LABELS)


def test_scan_and_label_come_to_the_same_working_voxels(store, files):
    case = store.load(files)
    assert case.shape == (6, 8, 8)
    assert case.image.shape == case.label.shape
    bright = np.argwhere(case.image[0] == case.image[0].max())
    assert set(map(tuple, bright)) <= set(map(tuple, np.argwhere(case.label[0] == 1)))
    assert bright[0][:2].tolist() == [4, 5]  # both axes are mirrored from LPS
    assert case.low == pytest.approx(float(case.image.min()), abs=1e-2)


def test_foreground_voxels_are_kept_label_by_label(store, files):
    case = store.load(files)
    assert [len(voxels) for voxels in case.centers] == [2, 2]  # slices are doubled
    for value, voxels in enumerate(case.centers, start=1):
        assert all(case.label[0][tuple(v)] == value for v in voxels.tolist())


def test_an_unlabeled_case_has_neither_label_nor_centres(store, files):
    case = store.load(Case("p1", files.image))
    assert case.label is None
    assert case.centers == ()


def test_the_same_scan_is_prepared_once(store, files):
    first = store.load(files)
    path = next(store.folder.glob("*.npy"))
    written = path.stat().st_ino
    again = store.load(Case("other name", files.image))
    assert again.key == first.key
    assert path.stat().st_ino == written
    assert isinstance(again.image, np.memmap)


def test_the_key_follows_scan_and_preprocessing(store, files, tmp_path):
    first = store.load(files).key
    other = CaseStore(tmp_path / "store", SPACE, modality="ct", labels=LABELS)
    assert other.load(files).key != first
    scan = np.asanyarray(nib.load(files.image).dataobj).copy()
    scan[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(scan, np.diag([-1.0, -1, 2, 1])), str(files.image))
    assert store.load(files).key != first


def save_label(case, array, affine=None):
    affine = np.diag([-1.0, -1, 2, 1]) if affine is None else affine
    nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), str(case.label))


@pytest.mark.parametrize(
    ("shape", "affine", "reason"),
    [
        ((6, 8, 3), None, "6x8x3 voxels, the scan 6x8x4"),
        ((6, 8, 4), np.eye(4), "voxels measure 1x1x1 mm.*the scan's 1x1x2 mm"),
        ((6, 8, 4), np.diag([-1.0, -1, 2.5, 1]), "1x1x2.5 mm"),
    ],
)
def test_a_label_on_another_grid_is_refused(store, files, shape, affine, reason):
    save_label(files, np.ones(shape), affine)
    with pytest.raises(LabelError, match=f"'p1' is not on.*{reason}.*reference volume"):
        store.load(files)


def test_an_empty_label_is_refused(store, files):
    save_label(files, np.zeros((6, 8, 4)))
    with pytest.raises(LabelError, match="'p1' is empty"):
        store.load(files)


def test_segment_names_count_not_values(store, files):
    swapped = Case("p1", files.image, files.label, {"spleen": 1, "liver": 2})
    plain, named = store.load(files), store.load(swapped)
    np.testing.assert_array_equal(plain.label == 1, named.label == 2)


def test_a_damaged_scan_is_named(store, files):
    files.image.write_bytes(files.image.read_bytes()[:60])
    with pytest.raises(ScanError, match="'p1' is damaged"):
        store.load(files)


def test_a_full_disk_is_a_storage_error(store, files):
    store.folder.rmdir()
    store.folder.write_text("a file where the folder was")
    with pytest.raises(StorageError, match="choose another model_dir"):
        store.load(files)


def test_an_annotation_can_be_changed_without_changing_the_file(store, files):
    annotation = store.load(files).annotation()
    annotation[:] = 1
    assert sorted(np.unique(store.load(files).label)) == [0, 1, 2]


def test_voxels_nobody_annotated_are_background_that_does_not_count():
    label, known = annotated(torch.tensor([0, 2, IGNORE_VALUE]))
    assert label.tolist() == [0, 2, 0]
    assert known.tolist() == [True, True, False]


def test_the_digest_is_that_of_the_label_that_was_read(store, files, monkeypatch):
    case = files
    before = file_digest(case.label)
    assert store.load(case).label_digest == before
    reads = []
    read = module.read_annotation

    def replaced_meanwhile(one, grid, labels):
        array = read(one, grid, labels)
        if not reads:
            changed = np.zeros(array.shape, np.uint8)
            changed[1, 1, 1] = 1
            save_label(one, changed)
        reads.append(1)
        return array

    monkeypatch.setattr(module, "read_annotation", replaced_meanwhile)
    again = store.load(case)
    assert len(reads) == 2
    assert again.label_digest == file_digest(case.label) != before
    assert again.annotation()[tuple(again.centers[0][0])] == 1
