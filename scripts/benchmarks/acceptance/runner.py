"""Runs every part in a process of its own: one that fails or hangs does not harm the others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_scratch.errors import LoraScratchError

from ..process import ProcessError, in_a_process
from .finding import FAILED, SKIPPED, Part, Result, judge
from .setup import Setup

LEAST_S = 5.0  # no part is started with less time than this


def run_parts(
    parts: Sequence[Part],
    setup: Setup,
    command: Sequence[str],
    *,
    limit_s: float,
) -> Iterator[Result]:
    """Yield the result of each part as soon as it is done.

    Args:
        command: with `--part NAME` after it, runs one part and prints its finding as JSON.
        limit_s: seconds for all parts; a part that has not started by then fails.
    """
    end = time.monotonic() + limit_s
    for part in parts:
        yield run_part(part, setup, command, left_s=end - time.monotonic())


def run_part(part: Part, setup: Setup, command: Sequence[str], *, left_s: float) -> Result:
    """Run a part and return its result. An error is a result too, and is not raised."""
    lacking = part.lacks(setup)
    if lacking:
        return Result(part.name, part.kind, SKIPPED, lacking, 0.0)
    if left_s < LEAST_S:
        line = "not run: no time left; raise --minutes"
        return Result(part.name, part.kind, FAILED, line, 0.0)
    start = time.monotonic()
    try:
        limit_s, seen = min(part.budget_s, left_s), visible_gpus(part)
        report = in_a_process([*command, "--part", part.name], limit_s=limit_s, environment=seen)
    except LoraScratchError as error:
        output = error.output if isinstance(error, ProcessError) else ""
        seconds = time.monotonic() - start
        return Result(part.name, part.kind, FAILED, error.found, seconds, output=output)
    return _result(part, setup, report, seconds=time.monotonic() - start)


def visible_gpus(part: Part) -> dict[str, str]:
    """Return the variable that shows a part the first visible GPU; nothing to show all."""
    if part.sees_all_gpus:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[0]}


def _result(part: Part, setup: Setup, report: Mapping[str, Any], *, seconds: float) -> Result:
    finding = report["finding"]
    status, line = judge(part, finding, is_small=setup.is_small)
    more = {name: finding[name] for name in ("figures", "skipped")}
    return Result(part.name, part.kind, status, line, seconds, machine=report["machine"], **more)
