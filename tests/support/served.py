"""`lora-scratch play` in a process that has the libraries imported already (ranks.py): it serves until a signal ends it."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.command_line import call
from support.ranks import FORKS, start_server

WITHIN_S = 150


@dataclass(frozen=True)
class Served:
    """The process, and the folder with what it has said so far."""

    process: Any
    folder: Path

    @property
    def output(self) -> str:
        """Its standard output."""
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """Its standard error."""
        return (self.folder / "err").read_text(encoding="utf-8")

    def first_line(self) -> str:
        """Wait for it."""
        until = time.monotonic() + WITHIN_S
        while "\n" not in self.output and self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        return self.output.partition("\n")[0]

    def end(self, number: int) -> int:
        """Send the signal; return the exit code."""
        os.kill(self.process.pid, number)
        self.process.join(WITHIN_S)
        return int(self.process.exitcode)


def serve(adapter: Path, folder: Path) -> Served:
    """Start it."""
    start_server()
    for name in ("out", "err"):
        (folder / name).touch()
    process = FORKS.Process(target=_play, args=(adapter, folder), daemon=True)
    process.start()
    return Served(process, folder)


def _play(adapter: Path, folder: Path) -> None:
    from lora_scratch.commands import play

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY), stream)
    sys.exit(call(play, adapter))
