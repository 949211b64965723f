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
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import CheckpointError
from ..runtime.atomic import new_folder, remove_folder, remove_leftovers, write_bytes, write_json
from ..runtime.distributed import broadcast, world_size
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
    where = str(path)
    try:
        if fault := header_fault(path / TENSORS):
            raise CheckpointError(f"is no checkpoint ({fault})", where=where, remedy=_REMEDY)
        content, written = (path / TENSORS).read_bytes(), json.loads((path / VALUES).read_bytes())
        if written["format"] != FORMAT:
            problem = f"has format {written['format']!r}"
            raise CheckpointError(problem, where=where, expected=f"format {FORMAT}")
        if _digests(content, written["values"]) != written["sha256"]:
            raise CheckpointError("is not what was written (SHA-256)", where=where, remedy=_REMEDY)
        return {**load(content), **written["values"]}
    except CheckpointError:
        raise
    except OSError as error:
        message = f"can't be read ({error.strerror})"
        raise CheckpointError(message, where=where, remedy=_REMEDY) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"is no checkpoint ({error})", where=where, remedy=_REMEDY) from error


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
