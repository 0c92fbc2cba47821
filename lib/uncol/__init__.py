"""UnCoL for MONAI Label: semi-supervised segmentation from a few annotated scans."""

__version__ = "0.4.0.dev0"
