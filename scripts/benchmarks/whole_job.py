"""Trains to the end or to a score: how good is the adapter, and how soon?"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from lora_scratch.evaluation import Predictor
from lora_scratch.tasks import Metrics

from .contenders import CONTENDERS
from .watch import Clock, Race
from .work import Work


def measure_job(name: str, work: Work) -> dict[str, Any]:
    """Train all epochs, then measure the epoch that was best by validation on the test rows.

    Thresholds are fitted on the validation rows, for every contender alike. The seconds include the
    validations.
    """
    model, clock, sets = CONTENDERS[name].build(work), Clock(), work.sets
    start = time.perf_counter()
    CONTENDERS[name].train(model, work, sets["train"], clock, validation=sets["validation"])
    seconds = time.perf_counter() - start
    return {
        **_measure(work, "test", model).scores,
        "validation": _measure(work, "validation", model).headline,
        "seconds": seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / seconds,
    }


def measure_race(name: str, work: Work, *, goal: float, split: str, every: int) -> dict[str, Any]:
    """Return the seconds of the optimizer steps until the headline score on `split` is reached.

    They are None if the epochs end before that.
    """
    model = CONTENDERS[name].build(work)
    race = Race(goal, lambda model: _measure(work, split, model).headline, every=every)
    CONTENDERS[name].train(model, work, work.sets["train"], race)
    return {
        "goal": goal,
        "split": split,
        "seconds_to_goal": race.seconds if race.reached else None,
        "steps": race.steps,
        "curve": race.curve,
    }


def _measure(work: Work, split: str, model: Any) -> Metrics:
    """Return the scores on the rows of `split`, with what the task fits on the validation rows."""
    logits = {name: _predict(work, name, model) for name in {split, "validation"}}
    task = work.task.fitted(logits["validation"], work.sets["validation"].labels)
    return task.measure(logits[split], work.sets[split].labels)


def _predict(work: Work, split: str, model: Any) -> Tensor:
    """Predict by the same code for every contender: padded, in the precision of the flags."""
    precision = work.precision(work.training.precision)
    predictor = Predictor(model, precision, work.base.pad_token_id, plain=True)
    return predictor.logits(work.sets[split])
