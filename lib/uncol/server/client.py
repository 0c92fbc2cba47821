"""MONAI Label's own Python client, for packages that must not import `monailabel`."""

from monailabel.client import MONAILabelClient

__all__ = ["MONAILabelClient"]
