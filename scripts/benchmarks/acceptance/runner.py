"""Runs every part in a process of its own: one that fails, hangs or breaks the GPU's context does not take others along."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_scratch.commands.benchmarks.acceptance.finding import FAILED, SKIPPED, Part, Result, judge
from lora_scratch.commands.benchmarks.acceptance.setup import Setup
from lora_scratch.commands.benchmarks.process import ProcessError, in_a_process

from lora_scratch.errors import LoraScratchError

LEAST_S = 5.0  # less time than that is not worth a start


def run_parts(parts: Sequence[Part], setup: Setup, command: Sequence[str], *, limit_s: float) -> Iterator[Result]:
    """A result for each part, as soon as it is there.

    Args:
        command: runs one part and prints its finding as JSON if `--part NAME` is put after it.
        limit_s: seconds for all of them; what has not begun by then fails.
    """
    end = time.monotonic() + limit_s
    for part in parts:
        yield run_part(part, setup, command, left_s=end - time.monotonic())


def run_part(part: Part, setup: Setup, command: Sequence[str], *, left_s: float) -> Result:
    """Its result; an error is one, and is not raised."""
    lacking = part.lacks(setup)
    if lacking:
        return Result(part.name, part.kind, SKIPPED, lacking, 0.0)
    if left_s < LEAST_S:
        return Result(part.name, part.kind, FAILED, "not run: no time left; raise --minutes", 0.0)
    start = time.monotonic()
    try:
        limit_s, seen = min(part.budget_s, left_s), visible_gpus(part)
        found = in_a_process([*command, "--part", part.name], limit_s=limit_s, environment=seen)
    except LoraScratchError as error:
        output = error.output if isinstance(error, ProcessError) else ""
        return Result(part.name, part.kind, FAILED, error.found, time.monotonic() - start, output=output)
    return _result(part, setup, found, seconds=time.monotonic() - start)


def visible_gpus(part: Part) -> dict[str, str]:
    """The variable that shows a part the first of the GPUs that are visible here, or all of them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {} if part.sees_all_gpus else {"CUDA_VISIBLE_DEVICES": visible.split(",")[0]}


def _result(part: Part, setup: Setup, found: Mapping[str, Any], *, seconds: float) -> Result:
    status, line = judge(part, found["finding"], is_small=setup.is_small)
    more = {name: found["finding"][name] for name in ("figures", "skipped")}
    return Result(part.name, part.kind, status, line, seconds, machine=found["machine"], **more)
