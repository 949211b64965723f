"""Proofs about memory: graphs of many widths keep little more than the widest step, and training goes on without enough."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lora_scratch.commands.benchmarks.acceptance.equality import relative_error
from lora_scratch.commands.benchmarks.acceptance.finding import Finding
from lora_scratch.commands.benchmarks.acceptance.setup import LEARNING_RATE, Setup, build_model, mixed_steps, random_batch
from lora_scratch.commands.benchmarks.held import HeldMemory
from torch import nn

from lora_scratch.data import Batch
from lora_scratch.fast.path import fast_path
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

MOST = 1.3  # times the memory of the widest step alone
BATCH, WIDTHS, VISITS = 32, tuple(range(8, 129, 8)), 4  # a shape is recorded when it comes for the third time
LIMIT = 0.7  # of what a step takes above the model: a half of it fits


def reserved_memory(setup: Setup) -> Finding:
    """What is reserved above the model once all widths are recorded, in random order, against the widest one alone.

    Told but not judged: the most on the way, when a width runs as usual beside the graphs of those before it, and the
    order from narrow to wide, in which every graph is larger than all before.
    """
    widest, _ = _reserved_by(setup, [WIDTHS[-1]] * VISITS)
    order = torch.randperm(len(WIDTHS) * VISITS, generator=torch.Generator().manual_seed(0)) % len(WIDTHS)
    mixed, peak = _reserved_by(setup, [WIDTHS[place] for place in order.tolist()])
    rising, _ = _reserved_by(setup, [width for width in WIDTHS for _ in range(VISITS)])
    sizes = {"widest_bytes": widest, "mixed_bytes": mixed, "peak_bytes": peak, "rising_bytes": rising}
    figures = {**sizes, "ratio": mixed / widest}
    line = (
        f"{mixed / widest:.2f} times the widest step (at most {MOST}), "
        f"{peak / widest:.2f} on the way, {rising / widest:.2f} from narrow to wide"
    )
    return Finding(line, holds=mixed <= MOST * widest, figures=figures)


def out_of_memory(setup: Setup) -> Finding:
    """With too little memory for a whole batch, training continues in pieces and has the losses of a run with enough."""
    steps = mixed_steps(setup, count=6, rows=[setup.choose(256, 8)], widths=setup.choose((128, 120), (16, 12)))
    expected, _, needed = _drill(setup, steps, limit_bytes=None)
    found, stepper, _ = _drill(setup, steps, limit_bytes=int(LIMIT * needed))
    error, pieces = relative_error(expected, found), stepper.pieces
    line = f"in {pieces} pieces, losses to {error:.1e}, relative (at most 1e-3)"
    figures = {"pieces": pieces, "loss_error": error, "step_bytes": setup.choose(needed, None)}
    return Finding(setup.describe() + line, holds=pieces > 1 and error <= 1e-3, figures=figures)


def _reserved_by(setup: Setup, widths: Sequence[int]) -> tuple[int, int]:
    """What is reserved above the model after steps of these widths, which are recorded, and the most on the way."""
    model, generator = build_model(setup, dropout=0.1), torch.Generator().manual_seed(0)
    held = HeldMemory(model, setup.device)
    with _stepping(setup, model, precision="bf16") as stepper:
        for width in widths:
            stepper([random_batch(setup, BATCH, width, generator)])
        return held.above_model(held.now()), held.above_model(held.peak())


def _drill(setup: Setup, steps: Sequence[Sequence[Batch]], *, limit_bytes: int | None) -> tuple[list[float], Stepper, int]:
    """The losses of these steps, their stepper, and the most memory that they reserved above the model.

    Args:
        limit_bytes: what may be reserved above the model; None for no limit, and nothing recorded.
    """
    model = build_model(setup, dropout=0.0)
    held = HeldMemory(model, setup.device)
    limited = _limit(setup, model, held, limit_bytes)
    recorded = limit_bytes is not None
    with limited, _stepping(setup, model, precision="fp32", recorded=recorded) as stepper, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stepper says that memory ran out
        losses = [stepper(step).loss for step in steps]
        return losses, stepper, held.above_model(held.peak())


@contextmanager
def _stepping(setup: Setup, model: Any, *, precision: str, recorded: bool = True) -> Iterator[Stepper]:
    """A stepper of the model; afterwards nothing holds its memory."""
    computed_in = resolve_precision(precision, setup.device)
    config = TrainingConfig(learning_rate=LEARNING_RATE, warmup_ratio=0)
    stepper = Stepper(model, config, precision=computed_in, total_steps=1000)
    if recorded:
        stepper.use_graphs(setup.recorder())
    try:
        with fast_path(model, computed_in):
            yield stepper
    finally:
        stepper.drop_graphs()
        model.zero_grad(set_to_none=True)
        model.to("cpu")
        stepper.optimizer.state.clear()
        setup.free_memory()


@contextmanager
def _limit(setup: Setup, model: nn.Module, held: HeldMemory, limit_bytes: int | None) -> Iterator[None]:
    """Inside, no more than `limit_bytes` above the model can be had; on a CPU, no more than half of the rows."""
    if limit_bytes is None:
        yield
        return
    if setup.is_small:
        model.register_forward_pre_hook(_refuse_many_rows, with_kwargs=True)
        yield
        return
    total = torch.cuda.get_device_properties(setup.device).total_memory
    torch.cuda.set_per_process_memory_fraction((held.model_bytes + limit_bytes) / total, setup.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setup.device)


def _refuse_many_rows(model: Any, arguments: Any, options: dict[str, Any]) -> None:
    """Packed rows lie in one, so the positions that start a row are counted."""
    positions = options.get("position_ids")
    rows = len(options["input_ids"]) if positions is None else int((positions == 0).sum())
    if rows > 4:
        raise torch.OutOfMemoryError("a fake: no memory for more than four rows")
