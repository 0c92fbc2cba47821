"""What pydicom, and our own reading, raise for data sets that lack something."""

from pydicom.errors import InvalidDicomError

ODD = (
    ArithmeticError,
    AttributeError,
    IndexError,
    InvalidDicomError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
