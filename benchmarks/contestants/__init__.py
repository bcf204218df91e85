"""One file per contestant; each runs in the virtual environment of its package."""
