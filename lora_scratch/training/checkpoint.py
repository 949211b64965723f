"""Checkpoints: a state in a folder of its own, complete or not there at all.

    state/step_000400/tensors.safetensors    every tensor of the state
    state/step_000400/values.json            every other value, and the SHA-256 of both: no pickle

A folder is written beside its place, flushed and renamed. Only then is the oldest one too many renamed away and removed,
so whenever the process or the machine dies, the last checkpoint that was finished is there, whole.
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

TENSORS, VALUES = "tensors.safetensors", "values.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are; made when the first one is written.
        save_steps: optimizer steps between two of them; 0 for one after every epoch.
        keep: how many to keep, at least 1.
    """

    folder: Path
    save_steps: int = 0
    keep: int = 2

    def steps(self) -> list[int]:
        """The steps that there is a checkpoint of, rising."""
        found = (re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.glob("step_*"))
        return sorted(int(match[1]) for match in found if match)

    def place(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step_{step:06d}"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step`, unless it is there, then remove the oldest ones.

        Raises:
            LoraScratchError: it can't be written; the earlier ones are as they were.
        """
        if step not in self.steps():
            write_state(self.place(step), state)
        for old in self.steps()[: -self.keep]:
            remove_folder(self.place(old))

    def load(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, if there is one.

        Raises:
            CheckpointError: it is not what was written.
        """
        remove_leftovers(self.folder)
        steps = self.steps()
        return read_state(self.place(steps[-1])) if steps else None


def write_state(place: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and JSON values to a new folder.

    Raises:
        LoraScratchError: it can't be written; nothing is left of it then.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with new_folder(place) as folder:
        write_bytes(folder / TENSORS, content)
        digests = {"tensors": hashlib.sha256(content).hexdigest(), "values": _digest(values)}
        write_json(folder / VALUES, {"format": FORMAT, "sha256": digests, "values": values})


def read_state(place: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU; tuples have become lists.

    Raises:
        CheckpointError: a file is missing or is not the one that was written.
    """
    try:
        content, written = (place / TENSORS).read_bytes(), json.loads((place / VALUES).read_bytes())
        if written["format"] != FORMAT:
            raise CheckpointError(f"has format {written['format']!r}", where=str(place), expected=f"format {FORMAT}")
        digests = {"tensors": hashlib.sha256(content).hexdigest(), "values": _digest(written["values"])}
        if digests != written["sha256"]:
            raise CheckpointError("is not what was written (SHA-256)", where=str(place), remedy=_REMEDY)
        return {**load(content), **written["values"]}
    except OSError as error:
        raise CheckpointError(f"can't be read ({error.strerror})", where=str(place), remedy=_REMEDY) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"is no checkpoint ({error})", where=str(place), remedy=_REMEDY) from error


def share_state(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The main process's state in every process: no other has to see its disk.

    Raises:
        WorldError: a process has gone.
    """
    if world_size() == 1:
        return None if state is None else dict(state)
    tensors = {name: value for name, value in (state or {}).items() if isinstance(value, Tensor)}
    values = {name: value for name, value in (state or {}).items() if name not in tensors}
    shared = json.loads(broadcast(json.dumps(None if state is None else values).encode()))
    return None if shared is None else {**load(broadcast(save(tensors))), **shared}


_REMEDY = "remove this folder to go on from the checkpoint before it, or from the beginning"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
