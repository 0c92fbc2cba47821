"""MONAI Label's server with this app in it: mended, limited, and tending itself."""
