"""What metrics.jsonl gets, for TensorBoard as well: `tensorboard --logdir checkpoints`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runtime.extras import missing, remedy

Listener = Callable[[Mapping[str, Any]], None]
POSITION = ("event", "step", "epoch", "modules")


def check_tensorboard() -> None:
    """Refuse --tensorboard before the work that it would watch.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if absent := missing("tensorboard"):
        raise ConfigError(f"{absent[0]} not installed", where="--tensorboard", remedy=remedy("tensorboard"))


@contextmanager
def tensorboard_listener(folder: Path, *, wanted: bool) -> Iterator[Listener | None]:
    """Yield what writes events into `folder`, as scalars `step/loss`, `validation/accuracy`, `modules/<name>/delta_weight`.

    A run that goes on begins a new file there, and what an earlier one holds of the steps to come is not shown any more.
    """
    if not wanted:
        yield None
        return
    listener = _Board(folder)
    try:
        yield listener
    finally:
        listener.close()


class _Board:
    """A SummaryWriter that begins with the first event, whose step says where the run is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # here: an extra, and slow to import

            self.writer = SummaryWriter(str(self.folder), purge_step=event["step"])
        for name, value in _scalars(event):
            self.writer.add_scalar(name, value, event["step"])

    def close(self) -> None:
        """What is written is on the disk then."""
        if self.writer is not None:
            self.writer.close()


def _scalars(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A number that is not finite comes by its name."""
    for name, value in event.items():
        if name not in POSITION:
            yield f"{event['event']}/{name}", float(value)
    for module, figures in event.get("modules", {}).items():
        for name, value in figures.items():
            yield f"modules/{module}/{name}", float(value)
