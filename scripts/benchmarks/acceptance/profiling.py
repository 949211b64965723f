"""Measures where the time of a step goes: kernels, how busy the GPU is, the host's microseconds."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from lora_scratch.data import Batch
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training.step import Stepper

from .finding import Finding
from .setup import Setup, build_model, mixed_steps, new_stepper

STEPS = 20
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")  # events of a trace that keep the GPU busy


def profile_steps(setup: Setup) -> Finding:
    """Profile steps of 32 rows of three widths in bf16, with recorded graphs and without."""
    steps = mixed_steps(
        setup,
        count=setup.choose(STEPS, 3),
        rows=[setup.choose(32, 4)],
        widths=setup.choose((16, 24, 32), (8, 12, 16)),
    )
    kinds = setup.choose(("graphs", "eager"), ("eager",))
    figures = {kind: _profile(setup, steps, recorded=kind == "graphs") for kind in kinds}
    line = "; ".join(f"{name}: {_in_words(row)}" for name, row in figures.items())
    return Finding(setup.choose("", "small form on a CPU: ") + line, figures=figures)


def summarize_trace(events: Iterable[Mapping[str, Any]], *, steps: int) -> dict[str, float]:
    """Return kernels and host operators a step, and the share of time in which the GPU works.

    The time is that between the first and the last work of the GPU.

    Args:
        events: those of a trace in Chrome's format.
    """
    events = [event for event in events if event.get("ph") == "X"]
    work = [event for event in events if event.get("cat") in DEVICE_WORK]
    spans = sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in work)
    figures = {
        "operators_per_step": sum(event.get("cat") == "cpu_op" for event in events) / steps,
        "kernels_per_step": sum(event.get("cat") == "kernel" for event in events) / steps,
    }
    return {**figures, "busy_share": _busy_share(spans)} if spans else figures


def _busy_share(spans: Sequence[tuple[float, float]]) -> float:
    """Return the union of sorted spans over all the time: kernels of two streams overlap."""
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / max(until - spans[0][0], 1e-9)


def _profile(setup: Setup, steps: Sequence[Sequence[Batch]], *, recorded: bool) -> dict[str, float]:
    with profile(activities=_activities(setup)):
        pass  # what the profiler loads once must be there before a graph is recorded
    model, precision = build_model(setup, dropout=0.1), resolve_precision("bf16", setup.device)
    recorder = setup.recorder() if recorded else None
    stepper, path = new_stepper(model, precision, total_steps=1000, recorder=recorder)
    with forward_path(model, precision):
        # first record every shape, and load the libraries
        for step in [*steps, *steps][: setup.choose(2 * STEPS, 1)]:
            stepper(step)
        host_s = _host_seconds(stepper, steps)
        events = _trace(setup, stepper, steps)
    path.close()
    return {
        "host_us_per_step": 1e6 * host_s / len(steps),
        **summarize_trace(events, steps=len(steps)),
    }


def _host_seconds(stepper: Stepper, steps: Sequence[Sequence[Batch]]) -> float:
    """Return the seconds in which the host launches the steps. It does not wait for the device."""
    start = time.perf_counter()
    for step in steps:
        stepper.launch(step)
    seconds = time.perf_counter() - start
    stepper.read()
    return seconds


def _trace(
    setup: Setup,
    stepper: Stepper,
    steps: Sequence[Sequence[Batch]],
) -> list[dict[str, Any]]:
    with profile(activities=_activities(setup)) as profiler:
        for step in steps:
            stepper.launch(step)
        stepper.read()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def _activities(setup: Setup) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([] if setup.is_small else [ProfilerActivity.CUDA])]


def _in_words(figures: Mapping[str, float]) -> str:
    words = [f"{figures['host_us_per_step']:,.0f} µs of the host a step"]
    with suppress(KeyError):
        words.append(f"{figures['busy_share']:.0%} of the time busy")
        words.append(f"{figures['kernels_per_step']:,.0f} kernels a step")
    return ", ".join([*words, f"{figures['operators_per_step']:,.0f} operators a step"])
