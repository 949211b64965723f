"""Training throughput and peak memory: the largest batch, then a few steps that are not timed and some that are."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from lora_scratch.commands.benchmarks.contenders import CONTENDERS
from lora_scratch.commands.benchmarks.held import HeldMemory
from lora_scratch.commands.benchmarks.peer import sorted_together
from lora_scratch.commands.benchmarks.watch import Clock, Timing
from lora_scratch.commands.benchmarks.work import Work

# Loaded on the way by one contender or another: before the first look at memory, since code is no part of a training.
LIBRARIES = ("accelerate", "datasets", "peft", "sklearn.metrics", "transformers.trainer")
MOST_EPOCHS = 100  # the clock ends it long before


def measure_training(name: str, work: Work, *, seconds: float) -> dict[str, Any]:
    """Real tokens a second over at least `work.steps` batches and `seconds`; the most memory held above the loaded model
    by the largest batch and `work.steps` others. Batches sorted together by length are all timed."""
    contender, work = CONTENDERS[name], replace(work, training=replace(work.training, epochs=MOST_EPOCHS))
    model, rows = contender.build(work), work.timed_rows
    sample = sorted_together(len(rows), work.training.batch_size) if contender.by_length else 1
    for library in LIBRARIES:
        import_module(library)
    held = HeldMemory(model, work.device)
    clock = Timing(work.steps, seconds, held.peak, warm=work.warm_steps, sample=sample)
    contender.train(model, replace(work, training=replace(work.training, epochs=1)), work.longest_rows, Clock())
    contender.train(model, work, rows, clock)
    return {
        "steps": clock.steps,
        "seconds": clock.seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / clock.seconds,
        "peak_memory_above_model_bytes": held.above_model(clock.peak_bytes),
    }
