"""The terms of a level's objective, one file each; a new file here is a new term (see `registry.py`)."""
