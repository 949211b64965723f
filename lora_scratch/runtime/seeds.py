"""Random numbers that depend on what they are for, never on the order in which things happen."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (CPU and CUDA): dropout draws from torch's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits
    torch.manual_seed(seed)


def named_seed(seed: int, name: str) -> int:
    """63 bits of SHA-256 over (seed, name): equal inputs give equal seeds on every machine and in every order."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator of its own for `name`, so that one module's draw never shifts another's."""
    return torch.Generator().manual_seed(named_seed(seed, name))
