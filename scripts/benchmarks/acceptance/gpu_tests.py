"""The tests of the suite that need a GPU, run by pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from lora_scratch.commands.benchmarks.acceptance.finding import Finding
from lora_scratch.commands.benchmarks.acceptance.setup import Setup

from lora_scratch.errors import LoraScratchError

TESTS = Path(__file__).resolve().parents[3] / "tests"
MARK = "needs_gpu"  # what such a test is marked with
ASKED = {"LORA_SCRATCH_GPU_TESTS": "1"}  # without it tests/conftest.py hides the GPU
OUTCOMES = ("passed", "failed", "error", "skipped")


def lacks_tests(setup: Setup) -> str:
    """Why the tests can't run here; empty if they can."""
    return "no GPU" if setup.is_small else "" if gpu_test_files() else "no tests beside the package"


def gpu_test_files() -> list[Path]:
    """The files with a test that needs a GPU: to collect the whole suite would take longer than to run these."""
    return [path for path in sorted(TESTS.rglob("test_*.py")) if MARK in path.read_text(encoding="utf-8")]


def gpu_tests(setup: Setup) -> Finding:
    """All of them pass, and there are some.

    Raises:
        LoraScratchError: pytest itself failed.
    """
    options = ["-q", "-p", "no:cacheprovider", "-k", "gpu", "--no-header", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, gpu_test_files())]
    done = subprocess.run(  # noqa: S603  (our own tests)
        command, capture_output=True, text=True, check=False, cwd=TESTS.parent, env={**os.environ, **ASKED}
    )
    counts = count_outcomes(done.stdout)
    if not counts:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise LoraScratchError(f"ended with {done.returncode}: {lines[-1]}", where="pytest")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    line = ", ".join(f"{count} {name}" for name, count in counts.items())
    holds = done.returncode == 0 and counts.get("passed", 0) > 0
    return Finding("; ".join([line, *failed[:3]]), holds=holds, figures={**counts, "failures": failed})


def count_outcomes(output: str) -> dict[str, int]:
    """`{"passed": 4, "skipped": 1}` from the last line of pytest that counts them; empty if there is none."""
    pattern = re.compile(rf"(\d+) ({'|'.join(OUTCOMES)})")
    counted = [found for line in output.splitlines() if (found := pattern.findall(line)) and " in " in line]
    return {name: int(count) for count, name in counted[-1]} if counted else {}
