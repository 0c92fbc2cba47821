"""The student in use: scan in, label and uncertainty out, in the scan's own grid."""
