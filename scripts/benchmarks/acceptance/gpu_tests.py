"""Runs the tests of the suite that need a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from lora_scratch.errors import LoraScratchError

from .finding import Finding
from .setup import Setup

TESTS = Path(__file__).resolve().parents[3] / "tests"
MARK = "needs_gpu"  # what such a test is marked with
ASKED = {"LORA_SCRATCH_GPU_TESTS": "1"}  # without it tests/conftest.py hides the GPU
OUTCOMES = ("passed", "failed", "error", "skipped")


def lacks_tests(setup: Setup) -> str:
    """Return why the tests can't run here; empty if they can."""
    if setup.is_small:
        return "no GPU"
    return "" if gpu_test_files() else "no tests in this installation"


def gpu_test_files() -> list[Path]:
    """Return the files with a test that needs a GPU.

    Collecting the whole suite would take longer than running these.
    """
    files = sorted(TESTS.rglob("test_*.py"))
    return [path for path in files if MARK in path.read_text(encoding="utf-8")]


def gpu_tests(setup: Setup) -> Finding:
    """Run the tests: all must pass, and there must be some.

    Raises:
        LoraScratchError: pytest itself failed.
    """
    options = ["-q", "-p", "no:cacheprovider", "-k", "gpu", "--no-header", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, gpu_test_files())]
    environment = {**os.environ, **ASKED}
    done = subprocess.run(  # noqa: S603  (our own tests)
        command, capture_output=True, text=True, check=False, cwd=TESTS.parent, env=environment
    )
    counts = count_outcomes(done.stdout)
    if not counts:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise LoraScratchError(f"ended with {done.returncode}: {lines[-1]}", where="pytest")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    line = ", ".join(f"{count} {name}" for name, count in counts.items())
    holds = done.returncode == 0 and counts.get("passed", 0) > 0
    return Finding(
        "; ".join([line, *failed[:3]]),
        holds=holds,
        figures={**counts, "failures": failed},
    )


def count_outcomes(output: str) -> dict[str, int]:
    """Return `{"passed": 4, "skipped": 1}` from the last line that counts them, or nothing."""
    pattern = re.compile(rf"(\d+) ({'|'.join(OUTCOMES)})")
    lines = [pattern.findall(line) for line in output.splitlines() if " in " in line]
    counted = [counts for counts in lines if counts]
    return {name: int(count) for count, name in counted[-1]} if counted else {}
