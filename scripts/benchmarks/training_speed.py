"""Training throughput and peak memory: the largest batch, then a few steps that are not timed and some that are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from lora_scratch.commands.benchmarks.contenders import CONTENDERS
from lora_scratch.commands.benchmarks.peer import sorted_together
from lora_scratch.commands.benchmarks.watch import Clock, Timing
from lora_scratch.commands.benchmarks.work import WARM_STEPS, Work

from lora_scratch.runtime.device import peak_memory_bytes
from lora_scratch.runtime.memory import peak_bytes, resident_bytes, restart_peak

# Loaded on the way by one contender or another: before the first look at memory, since code is no part of a training.
LIBRARIES = ("accelerate", "datasets", "peft", "sklearn.metrics", "transformers.trainer")
MOST_EPOCHS = 100  # the clock ends it long before


def measure_training(name: str, work: Work, *, seconds: float) -> dict[str, Any]:
    """Real tokens a second over at least `work.steps` batches and `seconds`; the most memory held above the loaded model
    by the largest batch and `work.steps` others. Batches sorted together by length are all timed."""
    contender, work = CONTENDERS[name], replace(work, training=replace(work.training, epochs=MOST_EPOCHS))
    model, on_gpu = contender.build(work), work.precision("fp32").device.type == "cuda"
    peak = partial(peak_memory_bytes, torch.device("cuda")) if on_gpu else peak_bytes
    rows = work.timed_rows
    sample = sorted_together(len(rows), work.training.batch_size) if contender.by_length else 1
    clock = Timing(work.steps, seconds, peak, warm=WARM_STEPS, sample=sample)
    for library in LIBRARIES:
        import_module(library)
    loaded = _read_through(model)
    restart_peak()
    contender.train(model, replace(work, training=replace(work.training, epochs=1)), work.longest_rows, Clock())
    contender.train(model, work, rows, clock)
    return {
        "steps": clock.steps,
        "seconds": clock.seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / clock.seconds,
        "peak_memory_above_model_bytes": clock.peak_bytes - (0 if on_gpu else loaded),
    }


def _read_through(model: torch.nn.Module) -> int:
    """Memory held once every weight has been read: a file that is mapped into memory counts only from then on."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return resident_bytes()
