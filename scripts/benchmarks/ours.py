"""lora-scratch as a contender: train.py's loop, watched through its log."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from lora_scratch.commands.benchmarks.watch import Watch
from lora_scratch.commands.benchmarks.work import Work

from lora_scratch.adapter import inject
from lora_scratch.data import Encoded, plan_batches
from lora_scratch.training import MetricsLog, TrainingConfig, train


def build_ours(work: Work) -> Any:
    """The base with our adapter."""
    return inject(work.base.model, work.adapter, seed=work.training.seed)


def train_ours(
    model: Any,
    work: Work,
    rows: Encoded,
    watch: Watch,
    *,
    validation: Encoded | None = None,
    plain: bool = False,
    precision: str | None = None,
) -> None:
    """Train on `rows`; the model ends with the tensors that were best on `validation`, or on a few of its rows if None.

    Args:
        precision: in place of the one that the flags name.
    """
    config = replace(work.training, plain=plain, precision=precision or work.training.precision)
    few = work.sets["validation"].select(range(min(8, len(work.sets["validation"]))))
    log = _WatchedLog(model, watch, _tokens_of_steps(rows, config))
    settings: dict[str, Any] = {"pad_token_id": work.base.pad_token_id, "log": log, "show_progress": False}
    with suppress(_Enough):
        train(model, rows, validation or few, config, **settings)


class _Enough(Exception):
    """The watch has seen what it waited for."""


class _WatchedLog(MetricsLog):
    """Tells the watch of each step that is logged."""

    def __init__(self, model: Any, watch: Watch, tokens: list[int]) -> None:
        super().__init__()
        self.model, self.watch, self.tokens = model, watch, tokens

    def write(self, **event: Any) -> None:
        """The time of a step is that of its log event: batch, forward, backward, update."""
        if event["event"] == "head_start":
            self.watch.before_steps(seconds=event["seconds"])
        if event["event"] == "step":
            tokens = self.tokens[event["step"] - 1]
            if self.watch.step(self.model, seconds=tokens / event["tokens_per_second"], tokens=tokens):
                raise _Enough


def _tokens_of_steps(rows: Encoded, config: TrainingConfig) -> list[int]:
    """The real tokens of each optimizer step, from the plan that the loop follows."""
    tokens: list[int] = []
    for epoch in range(config.epochs):
        plan = plan_batches(rows.lengths, batch_size=config.batch_size, seed=config.seed, epoch=epoch)
        size = config.accumulation_steps
        groups = [plan[start : start + size] for start in range(0, len(plan), size)]
        tokens += [sum(int(rows.lengths[batch].sum()) for batch in group) for group in groups]
    return tokens
