"""Random numbers that depend on their name, never on the order of calls."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (CPU and CUDA), which dropout uses."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits
    torch.manual_seed(seed)


def named_seed(seed: int, name: str) -> int:
    """Return 63 bits of SHA-256 over (seed, name), the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def named_generator(seed: int, name: str) -> torch.Generator:
    """Return a new CPU generator for `name`, so that no draw changes another."""
    return torch.Generator().manual_seed(named_seed(seed, name))
