"""Trained adapters at work: classify, many at once, merge, export, split."""
