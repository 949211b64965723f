"""metrics.jsonl: one line per event, readable while the run goes on."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LoraScratchError


class MetricsLog:
    """Appends events to a file as JSON lines; with no path it only keeps them in `events`. `listener` gets each, too."""

    def __init__(self, path: Path | None = None, *, listener: Callable[[dict[str, Any]], object] | None = None) -> None:
        self.path, self.listener = path, listener
        self.events: list[dict[str, Any]] = []

    def write(self, **event: Any) -> None:
        """One line: the event's fields. JSON has no NaN, so a number that is not finite is written as its name."""
        event = _writable(event)
        self.events.append(event)
        if self.listener is not None:
            self.listener(event)
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(event) + "\n")
            except OSError as error:
                raise LoraScratchError(f"could not be written ({error.strerror})", where=str(self.path)) from error

    def position(self) -> int:
        """The size of the file in bytes, once all of it is on the disk: a checkpoint remembers where it stood.

        Raises:
            LoraScratchError: the file is gone or can't be flushed.
        """
        if self.path is None:
            return 0
        try:
            with open(self.path, "ab") as file:
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise LoraScratchError(
                f"could not be flushed ({error.strerror})", where=str(self.path), remedy="free some space and resume"
            ) from error

    def rewind(self, position: int) -> None:
        """Forget the lines after `position`: the run is about to write them again.

        A file that is gone or shorter is a loss of history, not of training: it is said, and the run goes on.

        Raises:
            LoraScratchError: the file can't be read or cut.
        """
        if self.path is None:
            return
        try:
            with open(self.path, "a+b") as file:
                file.seek(0)
                content = file.read(position)
                file.truncate(len(content))
        except OSError as error:
            raise LoraScratchError(f"can't be cut ({error.strerror})", where=str(self.path)) from error
        if len(content) < position:
            warnings.warn(f"{self.path}: {position - len(content):,} bytes of earlier lines are gone", stacklevel=2)
        self.events = [json.loads(line) for line in content.splitlines()]


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _writable(each) for name, each in value.items()}
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
