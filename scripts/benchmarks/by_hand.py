"""Optimizer steps one by one, through the stepper of the training loop but without the loop.

The loop reads what a step did only every now and then on a GPU, and replays recorded graphs there: a replay dispatches
no operator. A measurement that has to see every operator, or the model as it is after each step, launches the steps here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from lora_scratch.commands.benchmarks.watch import Watch

from lora_scratch.data import Batch, Encoded, collate, plan_batches
from lora_scratch.fast.cuda_graphs import WIDTH_MULTIPLE
from lora_scratch.fast.path import fast_path
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import Precision, resolve_precision
from lora_scratch.runtime.seeds import seed_everything
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

Group = list[list[int]]  # the rows of every micro-batch of a step


def precision_of(config: TrainingConfig) -> Precision:
    """The precision and the device that the settings name."""
    return resolve_precision(config.precision, resolve_device(config.device))


def plan_groups(rows: Encoded, config: TrainingConfig, *, epoch: int) -> list[Group]:
    """The micro-batches of every step of an epoch, as the training loop plans them."""
    plan = plan_batches(rows.lengths, batch_size=config.batch_size, seed=config.seed, epoch=epoch)
    size = config.accumulation_steps
    return [plan[start : start + size] for start in range(0, len(plan), size)]


def count_tokens(rows: Encoded, group: Group) -> int:
    """The tokens of a step without padding."""
    return sum(int(rows.lengths[batch].sum()) for batch in group)


def collate_group(rows: Encoded, group: Group, *, pad_token_id: int, plain: bool) -> list[Batch]:
    """The micro-batches of a step on the device of the rows, with the widths that the loop gives them there."""
    multiple = WIDTH_MULTIPLE if rows.tokens.device.type == "cuda" and not plain else 1
    return [collate(rows, batch, pad_token_id=pad_token_id, multiple=multiple) for batch in group]


def train_by_hand(model: Any, rows: Encoded, config: TrainingConfig, watch: Watch, *, pad_token_id: int) -> None:
    """Train on `rows` with nothing recorded and nothing read late, until `watch` has seen enough or the epochs end."""
    seed_everything(config.seed)
    precision = precision_of(config)
    model.to(precision.device).train()
    steps = [group for epoch in range(config.epochs) for group in plan_groups(rows, config, epoch=epoch)]
    with fast_path(model, precision, plain=config.plain):
        stepper = Stepper(model, config, precision=precision, total_steps=len(steps))
        for seconds, tokens in _timed(stepper, rows.to(precision.device), steps, pad_token_id):
            if watch.step(model, seconds=seconds, tokens=tokens):
                return


def _timed(stepper: Stepper, rows: Encoded, steps: Sequence[Group], pad_token_id: int) -> Iterator[tuple[float, int]]:
    """Take the steps; the seconds and the tokens of each."""
    for group in steps:
        start = time.perf_counter()
        stepper(collate_group(rows, group, pad_token_id=pad_token_id, plain=stepper.config.plain))
        yield time.perf_counter() - start, count_tokens(rows, group)
