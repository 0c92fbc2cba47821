"""MONAI Label's own training and scoring, set up to be measured beside ours."""
