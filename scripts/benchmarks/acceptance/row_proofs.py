"""Proves batches by row numbers: torch's kernels, the same steps as padded ones, and their graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lora_scratch.data import Batch
from lora_scratch.fast import row_batch as row_batches
from lora_scratch.fast.segments import Kernel, choose_kernel, exact_attention, kernel_fault
from lora_scratch.runtime.precision import resolve_precision

from .equality import DROPOUT, TOLERANCES, compare, is_close, line_of_errors, take_steps
from .finding import Finding
from .setup import Setup, batches_of, random_rows

HEAD_DIMS = (32, 64)  # of MiniLM and DistilBERT
STEPS, ROWS, LONGEST = 60, 32, 64
SMALL_STEPS, SMALL_ROWS, SMALL_LONGEST = 12, 4, 16
# As in equality.py, but in bf16 two kernels round in other places: 0.13 of the movement on a CPU in
# small form, where fp32 is 3e-6 off. Rows that are mixed up are off by over 0.5.
KERNEL_TOLERANCES = {"fp32": TOLERANCES["fp32"], "bf16": (2e-2, 3e-1)}
LARGE_BUCKET = 256  # tokens: hundreds of tokens fill a batch up


def kernels(setup: Setup) -> Finding:
    """Compare torch's attention kernels with the formula: outputs, gradients and dropout.

    In small form the formula stands in for them.
    """
    figures, problems = {}, []
    for precision in TOLERANCES:
        for head_dim in HEAD_DIMS:
            name, fault = _chosen(setup, precision, head_dim)
            figures[f"{precision}, {head_dim} a head"] = name or fault
            problems += [f"{precision}, {head_dim} a head: {fault}"] if fault else []
    line = "; ".join(problems) or ", ".join(f"{name}: {kernel}" for name, kernel in figures.items())
    return Finding(setup.describe() + line, holds=not problems, figures=figures)


def rows_against_padded(setup: Setup) -> Finding:
    """Train without dropout on padded batches and on the same rows by number; also in large buckets.

    In fp32 and bf16. What fills a bucket up must not count.
    """
    figures, problems = {}, []
    for precision in KERNEL_TOLERANCES:
        kernel = kernel_for(setup, precision)
        padded = take_steps(setup, steps_by_row(setup, None), precision=precision, dropout=0.0)
        for name, multiple in (("", row_batches.MULTIPLE), (", large buckets", LARGE_BUCKET)):
            with _multiple(multiple):
                steps = steps_by_row(setup, kernel)
            by_row = take_steps(setup, steps, precision=precision, dropout=0.0)
            figures[precision + name] = errors = compare(padded, by_row)
            problems += [] if is_close(errors, precision, KERNEL_TOLERANCES) else [f"{precision}{name} differs"]
    return Finding(setup.describe() + line_of_errors(figures, problems), holds=not problems, figures=figures)


def rows_graph_against_eager(setup: Setup) -> Finding:
    """Train on rows by number with recorded gradients and updates, and without. With dropout."""
    figures, problems = {}, []
    for precision in TOLERANCES:
        steps = steps_by_row(setup, kernel_for(setup, precision))
        options: dict[str, Any] = {"precision": precision, "dropout": DROPOUT}
        eager = take_steps(setup, steps, **options)
        graphed = take_steps(setup, steps, recorder=setup.recorder(), **options)
        figures[precision] = {**compare(eager, graphed), "recorded_shapes": graphed.recorded}
        problems += [] if is_close(figures[precision], precision) else [f"{precision} differs"]
        if not graphed.recorded or graphed.warned:
            problems.append(f"{precision} recorded {graphed.recorded} shapes: {'; '.join(graphed.warned)}")
        if graphed.path is not None:
            graphed.path.close()
    return Finding(setup.describe() + line_of_errors(figures, problems), holds=not problems, figures=figures)


def steps_by_row(setup: Setup, kernel: Kernel | None) -> list[list[Batch]]:
    """Return steps of one batch, by row numbers for `kernel`, or padded for None."""
    count, size = setup.choose((STEPS, ROWS), (SMALL_STEPS, SMALL_ROWS))
    rows = random_rows(count * size, longest=setup.choose(LONGEST, SMALL_LONGEST)).to(setup.device)
    plan = batches_of(rows, size)
    if kernel is None:
        return [[setup.padded(rows, batch, 1)] for batch in plan]
    return [[row_batches.row_batch(rows, batch, kernel)] for batch in plan]


def kernel_for(setup: Setup, precision: str) -> Kernel:
    """Return the kernel that a training would use; in small form the formula.

    Raises:
        RuntimeError: there is none that is right here.
    """
    if setup.is_small:
        return exact_attention
    kernel, fault = choose_kernel(setup.device, resolve_precision(precision, setup.device).dtype, HEAD_DIMS[-1])
    if kernel is None:
        raise RuntimeError(fault)
    return kernel


def _chosen(setup: Setup, precision: str, head_dim: int) -> tuple[str, str]:
    """Return the name of the kernel, and why there is none."""
    if setup.is_small:
        return "the formula", kernel_fault(exact_attention, setup.device, torch.float32, head_dim)
    kernel, fault = choose_kernel(setup.device, resolve_precision(precision, setup.device).dtype, head_dim)
    return getattr(kernel, "__name__", ""), fault


@contextmanager
def _multiple(tokens: int) -> Iterator[None]:
    """Let buckets be multiples of so many tokens inside."""
    usual, row_batches.MULTIPLE = row_batches.MULTIPLE, tokens
    try:
        yield
    finally:
        row_batches.MULTIPLE = usual
