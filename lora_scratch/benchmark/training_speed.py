"""Training throughput and peak memory: a bounded number of optimizer steps, after a few that are not timed."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from ..runtime.device import peak_memory_bytes
from ..runtime.memory import peak_bytes, resident_bytes, restart_peak
from .contenders import CONTENDERS
from .watch import Clock
from .work import Work

# Loaded on the way by one contender or another: before the first look at memory, since code is no part of a training.
LIBRARIES = ("accelerate", "datasets", "peft", "sklearn.metrics", "transformers.trainer")
WARM_STEPS = 2  # libraries compile their kernels for new shapes in the first steps


def measure_training(name: str, work: Work) -> dict[str, Any]:
    """Real tokens a second over one epoch of `work.steps` batches, and the most memory held above the loaded model."""
    contender, work = CONTENDERS[name], replace(work, training=replace(work.training, epochs=1))
    model = contender.build(work)
    rows, on_gpu = work.timed_rows, work.precision("fp32").device.type == "cuda"
    for library in LIBRARIES:
        import_module(library)
    loaded = _read_through(model)
    restart_peak()
    warm = rows.select(range(min(WARM_STEPS * work.training.batch_size, len(rows))))
    contender.train(model, work, warm, Clock())
    clock = Clock()
    contender.train(model, work, rows, clock)
    peak = peak_memory_bytes(torch.device("cuda")) if on_gpu else peak_bytes()
    return {
        "steps": clock.steps,
        "seconds": clock.seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / clock.seconds,
        "peak_memory_above_model_bytes": peak - (0 if on_gpu else loaded),
    }


def _read_through(model: torch.nn.Module) -> int:
    """Memory held once every weight has been read: a file that is mapped into memory counts only from then on."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return resident_bytes()
