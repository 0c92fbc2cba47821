"""Scans, labels and maps as DICOM: series in, segmentations and parametric maps out."""
