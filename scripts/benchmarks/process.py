"""Runs a measurement in a process of its own: with its own peak memory, and a cold start."""

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
QUIET = {"TOKENIZERS_PARALLELISM": "false"}  # the same choice for all; it silences a warning


class ProcessError(LoraScratchError):
    """A process failed or took too long. `output` is the end of what it wrote to stderr."""

    def __init__(self, found: str, *, where: str, output: str) -> None:
        self.output = output
        super().__init__(found, where=where)


def in_a_process(
    command: Sequence[str],
    *,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the last line that the command prints, read as JSON.

    Args:
        limit_s: after so many seconds the process is ended, with all processes that it started.
        environment: variables to add to those of this process.

    Raises:
        ProcessError: the process failed, with the last line of its output, or took too long.
    """
    where = f"{sys.argv[0]} {command[-2]} {command[-1]}"
    variables = {**os.environ, **QUIET, **(environment or {})}
    code, output, said = _run(command, variables, limit_s, where=where)
    if code:
        last = (said.strip().splitlines() or ["no output"])[-1]
        raise ProcessError(f"ended with {code}: {last}", where=where, output=_tail(said))
    values: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return values


def _run(
    command: Sequence[str],
    variables: Mapping[str, str],
    limit_s: float | None,
    *,
    where: str,
) -> tuple[int, str, str]:
    """Return the exit code and what was written to stdout and stderr."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(  # noqa: S603  (our own flags)
        command, env=variables, start_new_session=True, **pipes
    ) as process:
        try:
            output, said = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            _, said = process.communicate()
            message = f"took longer than {limit_s:.0f} s"
            raise ProcessError(message, where=where, output=_tail(said)) from None
        except BaseException:
            _end(process)
            raise
    return process.returncode, output, said


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and everything it started: it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
