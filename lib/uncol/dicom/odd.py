"""What pydicom, and our own reading, raise for data sets that lack something."""

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
