"""The cap benchmark: see `__main__.py`."""
