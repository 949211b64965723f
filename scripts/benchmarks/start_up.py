"""Measures `import lora_scratch` once torch is there: the wait before the first line of work."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from lora_scratch.errors import LoraScratchError

PROGRAM = """
import time, torch
start = time.perf_counter()
import lora_scratch
print(time.perf_counter() - start)
"""


def measure_start_up() -> dict[str, Any]:
    """Return the seconds of the import beyond torch's, in a fresh interpreter.

    The second of two counts: the first may write bytecode.
    """
    return {"seconds": [_import_once() for _ in range(2)][-1]}


def _import_once() -> float:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise LoraScratchError(done.stderr.strip().splitlines()[-1], where="import lora_scratch")
    return float(done.stdout)
