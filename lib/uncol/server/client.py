"""MONAI Label's own Python client, for code outside `uncol.tasks`."""

from monailabel.client import MONAILabelClient

__all__ = ["MONAILabelClient"]
