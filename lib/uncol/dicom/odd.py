"""What is raised for data sets that lack something, by pydicom and by our own reading of them."""

from pydicom.errors import InvalidDicomError

ODD = (
    AttributeError,
    IndexError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
