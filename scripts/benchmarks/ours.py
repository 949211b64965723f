"""lora-scratch as a contender: the training loop of train.py, watched through its log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from lora_scratch.adapter import inject
from lora_scratch.data import Encoded
from lora_scratch.training import MetricsLog, TrainingConfig, train

from .by_hand import count_tokens, plan_groups, train_by_hand
from .watch import Watch
from .work import Work

FEW_ROWS = 8  # validated where nobody looks at the result


def build_ours(work: Work) -> Any:
    """Return the base with our adapter."""
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
    """Train on `rows`. The model ends with the tensors that were best on `validation`.

    Args:
        validation: a few of the validation rows if None.
        precision: that of the flags if None.
        by_hand: launch the steps one by one, without the loop (by_hand.py). Validate nothing.
    """
    config = replace(work.training, plain=plain, precision=precision or work.training.precision)
    pad_token_id = work.base.pad_token_id
    if by_hand:
        train_by_hand(model, rows, config, watch, pad_token_id=pad_token_id)
        return
    known = work.sets["validation"]
    few = known.select(range(min(FEW_ROWS, len(known))))
    log = _WatchedLog(model, watch, _tokens_of_steps(rows, config))
    settings: dict[str, Any] = {"pad_token_id": pad_token_id, "log": log, "show_progress": False}
    with suppress(_Enough), _counting_steps(log):
        train(model, rows, validation or few, config, **settings)


class _Enough(Exception):
    """The watch has seen enough."""


class _WatchedLog(MetricsLog):
    """Tells the watch of each step that is logged."""

    def __init__(self, model: Any, watch: Watch, tokens: list[int]) -> None:
        super().__init__()
        self.model, self.watch, self.tokens = model, watch, tokens
        self.launched = 0  # steps; on a GPU they are logged many at once, after later launches

    def write(self, **event: Any) -> None:
        """Tell the watch of an event. A step's seconds are those of batch, passes and update."""
        if event["event"] == "head_start":
            self.watch.before_steps(seconds=event["seconds"])
            self.launched = 0  # an optimizer that fitted the head took no step of the training
        if event["event"] == "step" and self._is_enough(event):
            raise _Enough

    def _is_enough(self, event: dict[str, Any]) -> bool:
        tokens = self.tokens[event["step"] - 1]
        return self.watch.step(
            self.model,
            seconds=tokens / event["tokens_per_second"],
            tokens=tokens,
            is_latest=event["step"] >= self.launched,
        )


@contextmanager
def _counting_steps(log: _WatchedLog) -> Iterator[None]:
    """Inside, count the steps of every optimizer in `log.launched` as they are launched."""

    def count(optimizer: Any, args: Any, kwargs: Any) -> None:
        log.launched += 1

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _tokens_of_steps(rows: Encoded, config: TrainingConfig) -> list[int]:
    """Return the tokens of each optimizer step without padding, from the plan of the loop."""
    epochs = (plan_groups(rows, config, epoch=epoch) for epoch in range(config.epochs))
    return [count_tokens(rows, group) for groups in epochs for group in groups]
