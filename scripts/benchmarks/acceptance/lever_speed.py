"""Measures what each lever of the GPU path is worth: milliseconds of a step with all, and without each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from lora_scratch.data import Batch
from lora_scratch.fast.path import GRAPHS, LEVERS, PACKING, gpu_path
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks import task_of
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

from .finding import Finding
from .row_proofs import kernel_for
from .setup import LEARNING_RATE, Setup, batches_of, build_model, random_rows

# Rows in a batch, and steps: on a GPU every shape is recorded in the first pass over them.
SIZES, STEPS = (32, 256, 1024), 48
SMALL_SIZES, SMALL_STEPS = (4,), 3
ROUNDS = 5  # timed passes over the steps; the median counts
WITHOUT = {"all": (), "without graphs": (GRAPHS,), "without packing": (PACKING,), "without both": LEVERS}


def lever_speed(setup: Setup) -> Finding:
    """Time steps in bf16 with dropout 0.1, at DistilBERT's size and emotion's lengths."""
    figures: dict[str, dict[str, float]] = {}
    for size in setup.choose(SIZES, SMALL_SIZES):
        figures[f"batch {size}"] = row = {}
        for name, without in WITHOUT.items():
            row[name] = _milliseconds(setup, size, without)
            setup.free_memory()
    line = "; ".join(f"{size}: {_in_words(row)}" for size, row in figures.items())
    return Finding(setup.choose("", "small form on a CPU: ") + line, figures=figures)


def _milliseconds(setup: Setup, size: int, without: Sequence[str]) -> float:
    """Return the median of a step, in passes over the same steps; the first ones record."""
    rows = random_rows(size * setup.choose(STEPS, SMALL_STEPS)).to(setup.device)
    model, precision = build_model(setup, dropout=0.1), resolve_precision("bf16", setup.device)
    with forward_path(model, precision):
        path = _path(setup, model, precision, without)
        config = TrainingConfig(learning_rate=LEARNING_RATE)
        options: dict[str, Any] = {"precision": precision, "total_steps": 10_000, "path": path}
        stepper = Stepper(model, config, task=task_of(model), **options)
        # built in every pass, as the loop does
        passes = [_seconds(setup, stepper, path, rows, size) for _ in range(setup.choose(2 + ROUNDS, 1))]
    path.close()
    timed = sorted(passes[-ROUNDS:])
    return 1000 * timed[len(timed) // 2]


def _path(setup: Setup, model: Any, precision: Any, without: Sequence[str]) -> Any:
    if not setup.is_small:
        return gpu_path(model, precision, without=without)
    from lora_scratch.fast.path import FastPath

    recorder = None if GRAPHS in without else setup.recorder()
    return FastPath(recorder, None if PACKING in without else kernel_for(setup, "bf16"))


def _seconds(setup: Setup, stepper: Stepper, path: Any, rows: Any, size: int) -> float:
    """Return the seconds of a step. The host builds the batches and launches; it waits once, at the end."""
    plan = batches_of(rows, size)
    start = time.perf_counter()
    for numbers in plan:
        batch: Batch = path.batch(rows, numbers) or setup.padded(rows, numbers, path.width_multiple)
        stepper.launch([batch])
    stepper.read()
    if not setup.is_small:
        torch.cuda.synchronize(setup.device)
    return (time.perf_counter() - start) / len(plan)


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} ms ({value / row['all']:.2f})" for name, value in row.items())
