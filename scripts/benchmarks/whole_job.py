"""A whole training, to its end or to an accuracy: what the adapter is worth when it is done, and how soon it gets there."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import Any

from lora_scratch.commands.benchmarks.contenders import CONTENDERS
from lora_scratch.commands.benchmarks.watch import Clock, Race
from lora_scratch.commands.benchmarks.work import Work

from lora_scratch.evaluation import Predictor, measure


def measure_job(name: str, work: Work) -> dict[str, Any]:
    """All epochs, validations included in the seconds; then the test metrics of the epoch that was best by validation."""
    model, clock = CONTENDERS[name].build(work), Clock()
    start = time.perf_counter()
    CONTENDERS[name].train(model, work, work.sets["train"], clock, validation=work.sets["validation"])
    seconds = time.perf_counter() - start
    found = measure(_predict(work, "test", model), work.sets["test"].labels)
    return {**asdict(found), "seconds": seconds, "tokens": clock.tokens, "tokens_per_second": clock.tokens / seconds}


def measure_race(name: str, work: Work, *, goal: float, split: str, every: int) -> dict[str, Any]:
    """Seconds of optimizer steps until the accuracy on `split` is reached; None if the epochs end before that."""
    model = CONTENDERS[name].build(work)
    race = Race(goal, partial(_predict, work, split), work.sets[split].labels, every=every)
    CONTENDERS[name].train(model, work, work.sets["train"], race)
    return {
        "goal": goal,
        "split": split,
        "seconds_to_goal": race.seconds if race.reached else None,
        "steps": race.steps,
        "curve": race.curve,
    }


def _predict(work: Work, split: str, model: Any) -> Any:
    """Every contender is measured by the same code, with padding, in the precision of the flags."""
    return Predictor(model, work.precision(work.training.precision), work.base.pad_token_id, plain=True).logits(
        work.sets[split]
    )
