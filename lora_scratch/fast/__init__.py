"""The fast path: the same numbers, sooner. `path.py` puts the levers together."""
