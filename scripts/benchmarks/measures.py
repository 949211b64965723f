"""What is measured, of whom, and how: `measure:contender` names one measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_scratch.commands.benchmarks.contenders import CONTENDERS, DEFAULT
from lora_scratch.commands.benchmarks.growth import GROWTHS, measure_growth, measure_peak
from lora_scratch.commands.benchmarks.prediction import PREDICTORS, measure_prediction
from lora_scratch.commands.benchmarks.products import measure_floor
from lora_scratch.commands.benchmarks.rounds import Task
from lora_scratch.commands.benchmarks.start_up import measure_start_up
from lora_scratch.commands.benchmarks.training_speed import measure_training
from lora_scratch.commands.benchmarks.whole_job import measure_job, measure_race
from lora_scratch.commands.benchmarks.work import Work

from lora_scratch.errors import ConfigError

DEFAULT_MEASURES = ("training", "floor", "prediction", "start-up")
RACERS = ("peft-best", "ours-bf16")


def _flag(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass
class BenchmarkOptions:
    """What to measure, and how long."""

    measures: list[str] = field(default_factory=lambda: list(DEFAULT_MEASURES), metadata={"help": "what to measure"})
    contenders: list[str] = field(default_factory=lambda: list(DEFAULT), metadata={"help": "who trains, in this order"})
    rounds: int = _flag(2, "how often each measurement is made")
    steps: int = _flag(4, "optimizer steps that are timed at least, after one that is not")
    seconds: float = _flag(10.0, "seconds that a timing of training takes at least")
    texts: int = _flag(256, "texts that are classified in a measurement of prediction, at most the test rows")
    rows: int = _flag(
        500, "rows of the data set of `peak`, and of the small one of `growth`; its large one has a hundred times as many"
    )
    goal: float = _flag(0.905, "accuracy that `race` runs to")
    split: str = _flag("validation", "rows that `race` measures it on: validation or test")
    every: int = _flag(50, "optimizer steps between two looks of `race`")
    flags_of_ours: str | None = _flag(
        None, 'flags for the contenders that are ours alone, after all others: --flags_of_ours "--head_start probe"'
    )
    adapter: str | None = _flag(None, "trained adapter that `prediction` uses (default: random numbers)")
    json: str | None = _flag(None, "write every figure to this file")
    only: str | None = _flag(None, "make this one measurement here, measure:contender, and print its figures as JSON")

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "texts", "rows", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"found {getattr(self, name)}", where=f"--{name}", expected="at least 1")
        if not 0 <= self.seconds < math.inf:
            raise ConfigError(f"found {self.seconds}", where="--seconds", expected="a number of seconds, at least 0")
        _check_known(self.measures, MEASURES, "--measures")
        _check_known(self.contenders, CONTENDERS, "--contenders")
        _check_known([self.split], ("validation", "test"), "--split")
        if self.only:
            measure, _, contender = self.only.partition(":")
            _check_known([measure], MEASURES, "--only")
            _check_known([contender], [*CONTENDERS, *PREDICTORS, *GROWTHS, "lora_scratch"], "--only")


Measure = Callable[[str, Work, BenchmarkOptions], dict[str, Any]]
MEASURES: dict[str, Measure] = {
    "training": lambda name, work, options: measure_training(name, work, seconds=options.seconds),
    "floor": lambda name, work, options: measure_floor(name, work),
    "prediction": lambda name, work, options: measure_prediction(name, work, count=options.texts, adapter=options.adapter),
    "start-up": lambda name, work, options: measure_start_up(),
    "growth": lambda name, work, options: measure_growth(name, rows=options.rows),
    "peak": lambda name, work, options: measure_peak(name, work, rows=options.rows),
    "race": lambda name, work, options: measure_race(
        name, work, goal=options.goal, split=options.split, every=options.every
    ),
    "job": lambda name, work, options: measure_job(name, work),
}


def tasks_of(options: BenchmarkOptions) -> list[Task]:
    """Every measurement of a round, in order."""
    chosen = options.contenders
    contenders: dict[str, Sequence[str]] = {
        "training": chosen,
        "job": chosen,
        "race": [name for name in RACERS if name in chosen] or chosen,
        "floor": [name for name in chosen if name == "ours-bf16"] or [name for name in chosen if name.startswith("ours")],
        "prediction": list(PREDICTORS),
        "start-up": ["lora_scratch"],
        "growth": list(GROWTHS),
        "peak": list(GROWTHS),
    }
    return [(measure, contender) for measure in options.measures for contender in contenders[measure]]


def _check_known(names: Sequence[str], known: Any, where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"found {name!r}", where=where, expected=", ".join(known))
