"""Checkpoints: each is a folder that is complete or does not exist.

    state/step_000400/tensors.safetensors    every tensor of the state
    state/step_000400/values.json            every other value, and the SHA-256 of both: no pickle

A folder is written under another name, flushed and renamed. Only then is the oldest one removed.
So the last finished checkpoint is complete whenever the process or the machine dies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import CheckpointError, LoraScratchError
from ..runtime.atomic import new_folder, read_json, remove_folder, remove_leftovers, write_bytes, write_json
from ..runtime.distributed import broadcast, world_size
from ..runtime.json_types import between, from_json
from ..runtime.tensor_files import header_fault

TENSORS, VALUES = "tensors.safetensors", "values.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: made when the first one is written.
        save_steps: optimizer steps between two of them; 0 for one after every epoch.
        keep: how many to keep, at least 1.
    """

    folder: Path
    save_steps: int = 0
    keep: int = 2

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in rising order."""
        names = (re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.glob("step_*"))
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step_{step:06d}"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step` unless it exists, then remove the oldest ones.

        Raises:
            LoraScratchError: it can't be written; the earlier ones are untouched.
        """
        if step not in self.steps():
            write_state(self.path(step), state)
        for old in self.steps()[: -self.keep]:
            remove_folder(self.path(old))

    def load(self) -> dict[str, Any] | None:
        """Read the last checkpoint; None if there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        remove_leftovers(self.folder)
        steps = self.steps()
        return read_state(self.path(steps[-1])) if steps else None


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and JSON values to a new folder.

    Raises:
        LoraScratchError: it can't be written; no part of it is left.
    """
    tensors, values = _split(state)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with new_folder(path) as folder:
        write_bytes(folder / TENSORS, content)
        record = {"format": FORMAT, "sha256": _digests(content, values), "values": values}
        write_json(folder / VALUES, record)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote, to the CPU; tuples become lists.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        record = _read_record(path / VALUES)
        content = _read_tensors(path / TENSORS)
        if _digests(content, record.values) != record.sha256:
            raise _no_checkpoint(path, "is not what was written (SHA-256)")
        tensors = load(content)
    except OSError as error:
        raise _no_checkpoint(path, f"can't be read ({error.strerror})") from error
    except (ValueError, KeyError, OverflowError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _no_checkpoint(path, f"is no checkpoint ({error})") from error
    if twice := tensors.keys() & record.values.keys():
        raise _no_checkpoint(path, f"is no checkpoint ({min(twice)} is there twice)")
    return {**tensors, **record.values}


@dataclass(frozen=True)
class _Record:
    """values.json."""

    format: Annotated[int, between(FORMAT, FORMAT)]
    sha256: dict[str, str]
    values: dict[str, Any]


def _read_record(path: Path) -> _Record:
    try:
        record: _Record = from_json(_Record, read_json(path), where=path.name)
    except LoraScratchError as error:
        is_absent = isinstance(error.__cause__, OSError)
        problem = error.found if is_absent else f"is no checkpoint ({path.name}: {error.found})"
        raise _no_checkpoint(path.parent, problem) from error
    return record


def _read_tensors(path: Path) -> bytes:
    """Return the bytes, if it is a file whose header fits it. Raises CheckpointError, or OSError."""
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise _no_checkpoint(path.parent, f"is no checkpoint ({path.name} is no regular file)")
    if fault := header_fault(path):
        raise _no_checkpoint(path.parent, f"is no checkpoint ({fault})")
    return path.read_bytes()


def _no_checkpoint(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(problem, where=str(path), remedy=_REMEDY)


def share_state(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the main process's state in every process, so that only it must read the disk."""
    if world_size() == 1:
        return None if state is None else dict(state)
    tensors, values = _split(state or {})
    shared = json.loads(broadcast(json.dumps(None if state is None else values).encode()))
    return None if shared is None else {**load(broadcast(save(tensors))), **shared}


_REMEDY = "remove this folder to resume from the checkpoint before it, or from the beginning"


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a state and its other values."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def _digests(tensors: bytes, values: Mapping[str, Any]) -> dict[str, str]:
    content = {"tensors": tensors, "values": json.dumps(values, sort_keys=True).encode()}
    return {name: hashlib.sha256(part).hexdigest() for name, part in content.items()}
