"""A small studies folder's labels and scans."""

import nibabel as nib
import numpy as np

from uncol.datastores.folder import StudiesFolder

LABELS = {"a": 1, "b": 2}
SCAN = np.arange(120, dtype=np.float32).reshape(6, 5, 4)


def write(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


def open_folder(folder, **options):
    return StudiesFolder(str(folder), **{"labels": LABELS, **options})
