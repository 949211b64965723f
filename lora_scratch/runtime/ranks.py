"""Processes that work together work on the same thing. Where they do not, all of them say what differs, and stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .distributed import gathered, is_sharded, world_size

SHOWN = 5


def check_same(what: str, content: bytes) -> None:
    """All processes must hold the same `content`, else they would work on different things and put it together.

    Raises:
        ConfigError: naming the processes that hold something else than the main one. WorldError: a process has gone.
    """
    if world_size() > 1:
        _check_same_digest(what, hashlib.sha256(content).digest())


def check_same_tensors(what: str, tensors: Mapping[str, Tensor]) -> None:
    """`check_same` for tensors by name; of a sharded one nothing is compared, since each process holds another part.

    Raises:
        As `check_same`.
    """
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not is_sharded(tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    _check_same_digest(what, digest.digest())


def check_same_settings(settings: Mapping[str, Any]) -> None:
    """All processes must have the same settings, by name.

    Raises:
        ConfigError: what differs, with both values. WorldError: a process has gone.
    """
    first, *others = [json.loads(each) for each in gathered(json.dumps(settings, default=str).encode())]
    clauses = [
        f"{name} is {_shown(other, name)} in process {number}, {_shown(first, name)} in process 0"
        for number, other in enumerate(others, 1)
        for name in {**first, **other}
        if first.get(name) != other.get(name)
    ]
    if clauses:
        more = f" and {len(clauses) - SHOWN} more" if len(clauses) > SHOWN else ""
        raise ConfigError("; ".join(clauses[:SHOWN]) + more, remedy="start all processes with the same flags and versions")


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "not given"


def _check_same_digest(what: str, digest: bytes) -> None:
    digests = gathered(digest)
    others = [str(number) for number, each in enumerate(digests) if each != digests[0]]
    if others:
        raise ConfigError(
            f"not the same in process {', '.join(others)} as in process 0",
            where=what,
            remedy="start all processes with the same files, flags and versions",
        )
