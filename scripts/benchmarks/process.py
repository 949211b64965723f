"""A measurement in a process of its own: honest peak memory, and nothing warm from the one before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from lora_scratch.errors import LoraScratchError


def in_a_process(command: list[str]) -> dict[str, Any]:
    """What the command prints last, as JSON.

    Raises:
        LoraScratchError: it failed; with the last line of what it said.
    """
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}  # for all alike; the choice silences a warning
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  (our own flags)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise LoraScratchError(f"ended with {done.returncode}: {lines[-1]}", where=f"{sys.argv[0]} --only {command[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
