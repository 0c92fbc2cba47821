"""Mends of defects in MONAI Label 0.8.5's server that users would take for ours.

One file per kind of defect; docs/monai-label.md section 3 lists them. To add one: a function here
and a line in `server/install.py`. tests/integration/test_mends.py holds a test for each that fails
once MONAI Label has mended it, so that ours can go.
"""
