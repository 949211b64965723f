"""Takes optimizer steps one by one: the stepper of the training loop without the loop.

On a GPU the loop reads its steps late and replays recorded graphs, which dispatch no operator. A
measurement that must see every operator, or the model after each step, launches the steps here.
"""

from __future__ import annotations

import time
from typing import Any

from lora_scratch.data import Batch, Encoded, collate, plan_batches
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.runtime.seeds import seed_everything
from lora_scratch.tasks import task_of
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

from .watch import Watch

Group = list[list[int]]  # the rows of every micro-batch of a step


def plan_groups(rows: Encoded, config: TrainingConfig, *, epoch: int) -> list[Group]:
    """Return the micro-batches of every step of an epoch, as the training loop plans them."""
    size, seed = config.accumulation_steps, config.seed
    plan = plan_batches(rows.lengths, batch_size=config.batch_size, seed=seed, epoch=epoch)
    return [plan[start : start + size] for start in range(0, len(plan), size)]


def count_tokens(rows: Encoded, group: Group) -> int:
    """Return the tokens of a step without padding."""
    return sum(int(rows.lengths[batch].sum()) for batch in group)


def train_by_hand(
    model: Any,
    rows: Encoded,
    config: TrainingConfig,
    watch: Watch,
    *,
    pad_token_id: int,
) -> None:
    """Train until `watch` has seen enough or the epochs end. Record nothing, read every step."""
    seed_everything(config.seed)
    precision = resolve_precision(config.precision, resolve_device(config.device))
    model.to(precision.device).train()
    rows = rows.to(precision.device)
    steps = [step for n in range(config.epochs) for step in plan_groups(rows, config, epoch=n)]
    with forward_path(model, precision, plain=config.plain) as path:
        # without the path, whose recordings would be replayed
        stepper = Stepper(model, config, task=task_of(model), precision=precision, total_steps=len(steps))
        shape = {"pad_token_id": pad_token_id, "multiple": path.width_multiple}
        for group in steps:
            start = time.perf_counter()
            stepper(_collate(rows, group, **shape))
            seconds = time.perf_counter() - start
            if watch.step(model, seconds=seconds, tokens=count_tokens(rows, group)):
                return


def _collate(rows: Encoded, group: Group, *, pad_token_id: int, multiple: int) -> list[Batch]:
    """Return the micro-batches of a step, as wide as the loop makes them."""
    return [collate(rows, batch, pad_token_id=pad_token_id, multiple=multiple) for batch in group]
