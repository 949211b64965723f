"""Proofs about memory: graphs of many widths keep little, and a lack of memory ends no training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lora_scratch.data import Batch
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training.step import Stepper

from ..held import HeldMemory
from .equality import relative_error
from .finding import Finding
from .setup import Setup, build_model, mixed_steps, new_stepper, random_batch

MOST = 1.3  # times the memory of the widest step alone
BATCH, WIDTHS = 32, tuple(range(8, 129, 8))
VISITS = 4  # a shape is recorded when it comes for the second time
LIMIT = 0.7  # of what a step takes above the model: half of a step fits


def reserved_memory(setup: Setup) -> Finding:
    """Compare the memory of all widths, recorded in random order, with that of the widest alone.

    Memory is what is reserved above the model. Two more figures are not judged: the peak, when a
    width runs as usual while the graphs before it are kept, and the order from narrow to wide, in
    which every graph is larger than all before.
    """
    widest, _ = _reserved_by(setup, [WIDTHS[-1]] * VISITS)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(WIDTHS) * VISITS, generator=generator) % len(WIDTHS)
    mixed, peak = _reserved_by(setup, [WIDTHS[index] for index in order.tolist()])
    rising, _ = _reserved_by(setup, [width for width in WIDTHS for _ in range(VISITS)])
    figures = {
        "widest_bytes": widest,
        "mixed_bytes": mixed,
        "peak_bytes": peak,
        "rising_bytes": rising,
        "ratio": mixed / widest,
    }
    line = (
        f"{mixed / widest:.2f} times the widest step (at most {MOST}), "
        f"{peak / widest:.2f} at the peak, {rising / widest:.2f} from narrow to wide"
    )
    return Finding(line, holds=mixed <= MOST * widest, figures=figures)


def out_of_memory(setup: Setup) -> Finding:
    """Train with too little memory for a whole batch, and compare with a run with enough."""
    rows, widths = [setup.choose(256, 8)], setup.choose((128, 120), (16, 12))
    steps = mixed_steps(setup, count=6, rows=rows, widths=widths)
    expected, _, needed = _drill(setup, steps, limit_bytes=None)
    losses, stepper, _ = _drill(setup, steps, limit_bytes=int(LIMIT * needed))
    error, pieces = relative_error(expected, losses), stepper.pieces
    line = f"in {pieces} pieces, losses to {error:.1e}, relative (at most 1e-3)"
    step_bytes = None if setup.is_small else needed
    figures = {"pieces": pieces, "loss_error": error, "step_bytes": step_bytes}
    return Finding(setup.describe() + line, holds=pieces > 1 and error <= 1e-3, figures=figures)


def _reserved_by(setup: Setup, widths: Sequence[int]) -> tuple[int, int]:
    """Return the memory reserved above the model after recorded steps, and the peak."""
    model, generator = build_model(setup, dropout=0.1), torch.Generator().manual_seed(0)
    held = HeldMemory(model, setup.device)
    with _stepping(setup, model, precision="bf16") as stepper:
        for width in widths:
            stepper([random_batch(setup, BATCH, width, generator)])
        return held.above_model(held.now()), held.above_model(held.peak())


def _drill(
    setup: Setup,
    steps: Sequence[Sequence[Batch]],
    *,
    limit_bytes: int | None,
) -> tuple[list[float], Stepper, int]:
    """Return the losses of these steps, their stepper, and the peak above the model.

    Args:
        limit_bytes: may be reserved above the model; None for no limit, and nothing is recorded.
    """
    model = build_model(setup, dropout=0.0)
    held = HeldMemory(model, setup.device)
    recorded = limit_bytes is not None
    with (
        _limit(setup, model, held, limit_bytes),
        _stepping(setup, model, precision="fp32", recorded=recorded) as stepper,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the stepper says that memory ran out
        losses = [stepper(step).loss for step in steps]
        return losses, stepper, held.above_model(held.peak())


@contextmanager
def _stepping(
    setup: Setup,
    model: Any,
    *,
    precision: str,
    recorded: bool = True,
) -> Iterator[Stepper]:
    """Yield a stepper of the model. Afterwards free its memory."""
    computed_in = resolve_precision(precision, setup.device)
    recorder = setup.recorder() if recorded else None
    stepper, path = new_stepper(model, computed_in, total_steps=1000, recorder=recorder)
    try:
        with forward_path(model, computed_in):
            yield stepper
    finally:
        path.close()
        model.zero_grad(set_to_none=True)
        model.to("cpu")
        stepper.optimizer.state.clear()
        setup.free_memory()


@contextmanager
def _limit(
    setup: Setup,
    model: nn.Module,
    held: HeldMemory,
    limit_bytes: int | None,
) -> Iterator[None]:
    """Inside, allow `limit_bytes` above the model; on a CPU, half of the rows."""
    if limit_bytes is None:
        yield
        return
    if setup.is_small:
        model.register_forward_pre_hook(_refuse_many_rows, with_kwargs=True)
        yield
        return
    total = torch.cuda.get_device_properties(setup.device).total_memory
    share = (held.model_bytes + limit_bytes) / total
    torch.cuda.set_per_process_memory_fraction(share, setup.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setup.device)


def _refuse_many_rows(model: Any, arguments: Any, options: dict[str, Any]) -> None:
    """Raise an error for more than four rows. Packed rows are one, so count the positions 0."""
    positions = options.get("position_ids")
    rows = len(options["input_ids"]) if positions is None else int((positions == 0).sum())
    if rows > 4:
        raise torch.OutOfMemoryError("a fake: no memory for more than four rows")
