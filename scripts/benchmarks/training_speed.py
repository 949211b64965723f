"""Measures training throughput and peak memory."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from .contenders import CONTENDERS
from .held import HeldMemory
from .peer import sorted_together
from .watch import Clock, Timing
from .work import Work

# Some contenders load these while they train. All are loaded before memory is first measured,
# since code is no part of a training.
LIBRARIES = ("accelerate", "datasets", "peft", "sklearn.metrics", "transformers.trainer")
MOST_EPOCHS = 100  # the clock ends the training long before


def measure_training(name: str, work: Work, *, seconds: float) -> dict[str, Any]:
    """Train on the largest batch, then on steps that are not timed and on steps that are.

    Tokens a second are real ones, over at least `work.steps` steps and `seconds`. Where batches are
    sorted by length, all of those that were sorted together are timed. The peak is the most memory
    above the loaded model that the largest batch and `work.steps` others held.
    """
    contender, config = CONTENDERS[name], work.training
    model, rows = contender.build(work), work.timed_rows
    sample = sorted_together(len(rows), config.batch_size) if contender.by_length else 1
    for library in LIBRARIES:
        import_module(library)
    held = HeldMemory(model, work.device)
    clock = Timing(work.steps, seconds, held.peak, warm=work.warm_steps, sample=sample)
    contender.train(model, _with_epochs(work, 1), work.longest_rows, Clock())
    contender.train(model, _with_epochs(work, MOST_EPOCHS), rows, clock)
    return {
        "steps": clock.steps,
        "seconds": clock.seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / clock.seconds,
        "peak_memory_above_model_bytes": held.above_model(clock.peak_bytes),
    }


def _with_epochs(work: Work, epochs: int) -> Work:
    return replace(work, training=replace(work.training, epochs=epochs))
