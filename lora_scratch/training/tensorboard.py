"""The events of metrics.jsonl for TensorBoard: `tensorboard --logdir checkpoints`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.atomic import FREE_SPACE, NOT_WRITTEN, file_errors
from .log import Listener

ODD = re.compile(r"[^-/\w.]")  # what a tag may not hold; names of modules come from the model
POSITION = ("event", "step", "epoch", "modules")


@contextmanager
def tensorboard_listener(folder: Path, *, wanted: bool) -> Iterator[Listener | None]:
    """Yield a listener that writes events to `folder`, or None if not `wanted`.

    The scalars are `step/loss`, `validation/accuracy`, `modules/<name>/delta_weight`, and so on. A
    resumed run starts a new file, which hides the later steps of the old one.
    """
    writer: Any = None

    def listener(event: Mapping[str, Any]) -> None:
        """Write an event. The step of the first one says where the run resumes."""
        nonlocal writer
        if writer is None:
            from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

            writer = SummaryWriter(str(folder), purge_step=event["step"])
        with file_errors(folder, NOT_WRITTEN, FREE_SPACE):  # a thread writes; what it met is raised in the next call
            for name, value in _scalars(event):
                writer.add_scalar(ODD.sub("_", name), value, event["step"])

    try:
        yield listener if wanted else None
    finally:
        if writer is not None:
            with file_errors(folder, NOT_WRITTEN, FREE_SPACE):
                writer.close()


def _scalars(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in event.items():
        if name not in POSITION:
            yield f"{event['event']}/{name}", float(value)  # "nan" and "inf" are strings
    for module, figures in event.get("modules", {}).items():
        for name, value in figures.items():
            yield f"modules/{module}/{name}", float(value)
