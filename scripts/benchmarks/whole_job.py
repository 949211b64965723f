"""Trains to the end or to an accuracy: how good is the adapter, and how soon?"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from lora_scratch.evaluation import Predictor
from lora_scratch.tasks import measure

from .contenders import CONTENDERS
from .watch import Clock, Race
from .work import Work


def measure_job(name: str, work: Work) -> dict[str, Any]:
    """Train all epochs, then measure the epoch that was best by validation on the test rows.

    The seconds include the validations.
    """
    model, clock, sets = CONTENDERS[name].build(work), Clock(), work.sets
    start = time.perf_counter()
    CONTENDERS[name].train(model, work, sets["train"], clock, validation=sets["validation"])
    seconds = time.perf_counter() - start
    metrics = measure(_predict(work, "test", model), sets["test"].labels)
    return {
        **asdict(metrics),
        "seconds": seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / seconds,
    }


def measure_race(name: str, work: Work, *, goal: float, split: str, every: int) -> dict[str, Any]:
    """Return the seconds of the optimizer steps until the accuracy on `split` is reached.

    They are None if the epochs end before that.
    """
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


def _predict(work: Work, split: str, model: Any) -> Tensor:
    """Predict by the same code for every contender: padded, in the precision of the flags."""
    precision = work.precision(work.training.precision)
    predictor = Predictor(model, precision, work.base.pad_token_id, plain=True)
    return predictor.logits(work.sets[split])
