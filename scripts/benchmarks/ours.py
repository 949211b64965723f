"""lora-scratch as a contender: train.py's loop, watched through its log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from lora_scratch.commands.benchmarks.by_hand import count_tokens, plan_groups, train_by_hand
from lora_scratch.commands.benchmarks.watch import Watch
from lora_scratch.commands.benchmarks.work import Work
from torch.optim.optimizer import register_optimizer_step_post_hook

from lora_scratch.adapter import inject
from lora_scratch.data import Encoded
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
    by_hand: bool = False,
) -> None:
    """Train on `rows`; the model ends with the tensors that were best on `validation`, or on a few of its rows if None.

    Args:
        precision: in place of the one that the flags name.
        by_hand: launch the steps one by one in place of the loop (by_hand.py); nothing is validated then.
    """
    config = replace(work.training, plain=plain, precision=precision or work.training.precision)
    if by_hand:
        train_by_hand(model, rows, config, watch, pad_token_id=work.base.pad_token_id)
        return
    few = work.sets["validation"].select(range(min(8, len(work.sets["validation"]))))
    log = _WatchedLog(model, watch, _tokens_of_steps(rows, config))
    settings: dict[str, Any] = {"pad_token_id": work.base.pad_token_id, "log": log, "show_progress": False}
    with suppress(_Enough), _counting_steps(log):
        train(model, rows, validation or few, config, **settings)


class _Enough(Exception):
    """The watch has seen what it waited for."""


class _WatchedLog(MetricsLog):
    """Tells the watch of each step that is logged."""

    def __init__(self, model: Any, watch: Watch, tokens: list[int]) -> None:
        super().__init__()
        self.model, self.watch, self.tokens = model, watch, tokens
        self.launched = 0  # steps; on a GPU they are logged many at once, when later ones were launched already

    def write(self, **event: Any) -> None:
        """The time of a step is that of its log event: batch, forward, backward, update."""
        if event["event"] == "head_start":
            self.watch.before_steps(seconds=event["seconds"])
            self.launched = 0  # an optimizer that fitted the head took no step of the training
        if event["event"] == "step":
            tokens, is_latest = self.tokens[event["step"] - 1], event["step"] >= self.launched
            seconds = tokens / event["tokens_per_second"]
            if self.watch.step(self.model, seconds=seconds, tokens=tokens, is_latest=is_latest):
                raise _Enough


@contextmanager
def _counting_steps(log: _WatchedLog) -> Iterator[None]:
    """Inside, `log.launched` counts the steps of every optimizer as they are launched."""

    def count(optimizer: Any, args: Any, kwargs: Any) -> None:
        log.launched += 1

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _tokens_of_steps(rows: Encoded, config: TrainingConfig) -> list[int]:
    """The real tokens of each optimizer step, from the plan that the loop follows."""
    epochs = (plan_groups(rows, config, epoch=epoch) for epoch in range(config.epochs))
    return [count_tokens(rows, group) for groups in epochs for group in groups]
