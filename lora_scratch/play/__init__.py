"""A page on this machine to try an adapter on: texts, strength, rank, and switches for every module."""
