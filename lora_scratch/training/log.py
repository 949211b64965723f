"""metrics.jsonl: one line per event, readable while the run goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import LoraScratchError


class MetricsLog:
    """Appends events to a file as JSON lines; with no path it only keeps them in `events`."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []

    def write(self, **event: Any) -> None:
        """One line: the event's fields. JSON has no NaN, so a number that is not finite is written as its name."""
        event = {name: repr(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in event.items()}
        self.events.append(event)
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(event) + "\n")
            except OSError as error:
                raise LoraScratchError(f"could not be written ({error.strerror})", where=str(self.path)) from error
