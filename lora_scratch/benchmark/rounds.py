"""The measures of a run in their order: rounds are interleaved, so that a machine that slows down slows all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ..errors import LoraScratchError
from .figures import Figure
from .idle import look

Task = tuple[str, str]  # a measure and a contender


def run_rounds(tasks: Sequence[Task], command: Sequence[str], *, rounds: int) -> list[Figure]:
    """Every task once a round, each in a fresh process: `command` and `--only measure:contender`.

    A process of its own makes peak memory honest, and leaves nothing warm for the next one.

    Raises:
        LoraScratchError: a process that failed, with the last line of what it said.
    """
    figures = []
    order = [(number, *task) for number in range(rounds) for task in tasks]
    bar = tqdm(order, desc="benchmark", unit="measure")
    for number, measure, contender in bar:
        bar.set_postfix_str(f"{measure} {contender}")
        machine = look()
        values = _in_a_process([*command, "--only", f"{measure}:{contender}"])
        figures.append(Figure(measure, contender, number, values, machine))
    return figures


def _in_a_process(command: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}  # for all alike; the choice silences a warning
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  (our own flags)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise LoraScratchError(f"ended with {done.returncode}: {lines[-1]}", where=f"{sys.argv[0]} --only {command[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
