"""MONAI Label's side: the only package that imports `monailabel`."""
