"""A measurement in a process of its own: honest peak memory, and nothing warm from the one before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lora_scratch.errors import LoraScratchError

TAIL_LINES = 40  # of what a failed process wrote to stderr


class ProcessError(LoraScratchError):
    """A process that failed, or took too long. `output` is the end of what it wrote to stderr."""

    def __init__(self, found: str, *, where: str, output: str) -> None:
        self.output = output
        super().__init__(found, where=where)


def in_a_process(
    command: Sequence[str], *, limit_s: float | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the command prints last, as JSON.

    Args:
        limit_s: seconds after which it is ended, with all processes that it started.
        environment: variables that it sees over those of this process.

    Raises:
        ProcessError: it failed, with the last line of what it said, or it took longer than `limit_s`.
    """
    where = f"{sys.argv[0]} {command[-2]} {command[-1]}"
    # for all alike; the choice silences a warning
    variables = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **(environment or {})}
    with subprocess.Popen(  # noqa: S603  (our own flags)
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, start_new_session=True
    ) as process:
        try:
            out, said = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            _, said = process.communicate()
            raise ProcessError(f"took longer than {limit_s:.0f} s", where=where, output=_tail(said)) from None
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        last = (said.strip().splitlines() or ["no output"])[-1]
        raise ProcessError(f"ended with {process.returncode}: {last}", where=where, output=_tail(said))
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def _end(process: subprocess.Popen[str]) -> None:
    """End it and everything it started: it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
