"""A scan becomes a tensor: reading, geometry, preprocessing, labels, cases, crops."""
