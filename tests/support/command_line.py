"""Scripts as a shell would run them, without starting a process for each."""

from __future__ import annotations

import sys
from pathlib import Path

from lora_scratch.runs import run_command


def call(script, *arguments, in_processes: bool = False) -> int:
    """Run a script's main as the shell would; return its exit code."""
    old, sys.argv = sys.argv, [script.__file__, *map(str, arguments)]
    try:
        run_command(script.main, in_processes=in_processes)
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = old
    return 0


def train_arguments(base: Path, data: Path, run: Path) -> list[object]:
    """A job of a few seconds."""
    small = ["--epochs", 2, "--batch_size", 16, "--learning_rate", 1e-2, "--max_tokens", 32, "--rank", 4, "--alpha", 8]
    return ["--preset", "basic", "--model", base, "--dataset", data, "--output_dir", run, "--precision", "fp32", *small]
