"""metrics.jsonl: one line per event, readable while the run is training."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.atomic import file_errors, open_own
from ..runtime.json_text import parse_json

FIELDS = {"step": {"loss", "learning_rate", "gradient_norm"}, "validation": {"loss"}}  # that readers ask for
Listener = Callable[[dict[str, Any]], object]


class MetricsLog:
    """Appends events to a file as JSON lines, and keeps them in `events`.

    Args:
        path: the file; without it, events are only kept.
        listener: called with every event.

    Raises:
        LoraScratchError: the file can't be written, flushed or cut.
    """

    def __init__(self, path: Path | None = None, *, listener: Listener | None = None) -> None:
        self.path, self.listener = path, listener
        self.events: list[dict[str, Any]] = []

    def write(self, **event: Any) -> None:
        """Write an event as one line. JSON has no NaN: it becomes a string, as inf does."""
        event = _writable(event)
        self.events.append(event)
        if self.listener is not None:
            self.listener(event)
        if self.path is not None:
            problem = "could not be written"
            with file_errors(self.path, problem), open_own(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(event, allow_nan=False) + "\n")

    def position(self) -> int:
        """Flush the file to the disk and return its size in bytes, for a checkpoint."""
        if self.path is None:
            return 0
        problem, remedy = "could not be flushed", "free some space and resume"
        with file_errors(self.path, problem, remedy), open_own(self.path, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def rewind(self, position: int) -> None:
        """Remove the lines after `position`, which the resumed run writes again.

        If the file is shorter or gone, or a line is damaged, warn. Only history is lost.
        """
        if self.path is None:
            return
        with file_errors(self.path, "can't be cut"), open_own(self.path, "a+b") as file:
            file.seek(0)
            content = file.read(min(position, os.fstat(file.fileno()).st_size))
            self.events, whole = _events(content)
            file.truncate(whole)
        if missing := position - whole:
            warnings.warn(f"{self.path}: {missing:,} bytes of earlier lines are gone", stacklevel=2)


def _events(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the events of the lines up to the first that is none of ours, and where that line starts."""
    events: list[dict[str, Any]] = []
    whole = 0
    for line in content.splitlines(keepends=True):
        try:
            event = parse_json(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not _is_event(event):
            break
        events.append(event)
        whole += len(line)
    return events, whole


def _is_event(event: Any) -> bool:
    """Return whether it has the form of ours: its kind, its step, numbers, and numbers of modules by name."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or type(event.get("step")) is not int:
        return False
    modules = event.get("modules", {})
    if not isinstance(modules, dict) or not all(isinstance(figures, dict) for figures in modules.values()):
        return False
    figures = [number for figures in modules.values() for number in figures.values()]
    figures += [number for name, number in event.items() if name not in ("event", "modules")]
    return FIELDS.get(event["event"], set()) <= event.keys() and all(map(_is_number, figures))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1000


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _writable(item) for name, item in value.items()}
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
