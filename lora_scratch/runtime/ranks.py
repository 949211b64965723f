"""Check that all processes work on the same thing. If they do not, all of them stop and say why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .distributed import gather, is_sharded, world_size

SHOWN = 5


def check_same(name: str, content: bytes) -> None:
    """Check that all processes have the same `content`.

    Raises:
        ConfigError: naming the processes that differ from the main one.
        WorldError: a process is gone.
    """
    if world_size() > 1:
        _check_same_digest(name, hashlib.sha256(content).digest())


def check_same_tensors(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that all processes have the same tensors by name. Sharded tensors are not compared.

    Raises:
        As `check_same`.
    """
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not is_sharded(tensor):
            content = tensor.detach().cpu().contiguous().flatten()
            digest.update(content.view(torch.uint8).numpy().data)
    _check_same_digest(name, digest.digest())


def check_same_settings(settings: Mapping[str, Any]) -> None:
    """Check that all processes have the same settings.

    Raises:
        ConfigError: the differences, with both values. WorldError: a process is gone.
    """
    contents = gather(json.dumps(settings, default=str).encode())
    main, *others = [json.loads(content) for content in contents]
    clauses = [
        f"{name} is {_shown(other, name)} in process {number}, {_shown(main, name)} in process 0"
        for number, other in enumerate(others, 1)
        for name in {**main, **other}
        if main.get(name) != other.get(name)
    ]
    if clauses:
        more = f" and {len(clauses) - SHOWN} more" if len(clauses) > SHOWN else ""
        remedy = "start all processes with the same flags and versions"
        raise ConfigError("; ".join(clauses[:SHOWN]) + more, remedy=remedy)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "not given"


def _check_same_digest(name: str, digest: bytes) -> None:
    digests = gather(digest)
    others = [str(rank) for rank, other in enumerate(digests) if other != digests[0]]
    if others:
        problem = f"not the same in process {', '.join(others)} as in process 0"
        remedy = "start all processes with the same files, flags and versions"
        raise ConfigError(problem, where=name, remedy=remedy)
