"""The measures, and their flags: `measure:contender` names one measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_scratch.errors import ConfigError
from lora_scratch.runtime.options import flag

from .contenders import CONTENDERS, DEFAULT
from .growth import GROWTHS, measure_growth, measure_peak
from .prediction import PREDICTORS, measure_prediction
from .products import measure_floor
from .rounds import JOB, OURS, Task
from .start_up import measure_start_up
from .training_speed import measure_training
from .whole_job import measure_job, measure_race
from .work import Work

DEFAULT_MEASURES = ("training", "floor", "prediction", "start-up")
RACERS = ("peft-best", "ours-bf16")
OF_ROWS = "rows of `peak`, and of the small set of `growth`; its large set has 100 times as many"
OF_OURS = 'more flags for our contenders alone: --flags_of_ours "--head_start probe"'
OF_FULL = 'more flags for full fine-tuning alone: --flags_of_full "--learning_rate 1e-4"'


@dataclass
class BenchmarkOptions:
    """What to measure, and how long."""

    _argument_group_name = "benchmark"  # the title of these flags in --help

    measures: list[str] = field(
        default_factory=lambda: list(DEFAULT_MEASURES),
        metadata={"help": "what to measure"},
    )
    contenders: list[str] = field(
        default_factory=lambda: list(DEFAULT),
        metadata={"help": "who trains, in this order"},
    )
    rounds: int = flag(2, "how often each measurement is made")
    steps: int = flag(4, "optimizer steps that are timed at least, after one that is not")
    seconds: float = flag(10.0, "seconds that a timing of training takes at least")
    texts: int = flag(256, "texts of `prediction`, at most the test rows")
    rows: int = flag(500, OF_ROWS)
    goal: float = flag(0.905, "score that `race` runs to: the headline of the task, for example accuracy")
    split: str = flag("validation", "rows that `race` measures it on: validation or test")
    every: int = flag(50, "optimizer steps between two measurements of `race`")
    flags_of_ours: str | None = flag(None, OF_OURS)
    flags_of_full: str | None = flag(None, OF_FULL)
    adapter: str | None = flag(None, "trained adapter for `prediction`; random numbers if None")
    json: str | None = flag(None, "write every figure to this file")
    only: str | None = flag(
        None,
        "make this one measurement here, measure:contender, and print it as JSON",
    )

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "texts", "rows", "every"):
            if getattr(self, name) < 1:
                found = f"found {getattr(self, name)}"
                raise ConfigError(found, where=f"--{name}", expected="at least 1")
        if not 0 <= self.seconds < math.inf:
            expected = "a number of seconds, at least 0"
            raise ConfigError(f"found {self.seconds}", where="--seconds", expected=expected)
        _check_known(self.measures, MEASURES, "--measures")
        _check_known(self.contenders, CONTENDERS, "--contenders")
        _check_known([self.split], ("validation", "test"), "--split")
        if self.only:
            measure, _, contender = self.only.partition(":")
            _check_known([measure], MEASURES, "--only")
            everyone = [*CONTENDERS, *PREDICTORS, *GROWTHS, "lora_scratch"]
            _check_known([contender], everyone, "--only")


def _training(name: str, work: Work, options: BenchmarkOptions) -> dict[str, Any]:
    return measure_training(name, work, seconds=options.seconds)


def _prediction(name: str, work: Work, options: BenchmarkOptions) -> dict[str, Any]:
    return measure_prediction(name, work, count=options.texts, adapter=options.adapter)


def _race(name: str, work: Work, options: BenchmarkOptions) -> dict[str, Any]:
    return measure_race(name, work, goal=options.goal, split=options.split, every=options.every)


Measure = Callable[[str, Work, BenchmarkOptions], dict[str, Any]]
MEASURES: dict[str, Measure] = {
    "training": _training,
    "floor": lambda name, work, options: measure_floor(name, work),
    "prediction": _prediction,
    "start-up": lambda name, work, options: measure_start_up(),
    "growth": lambda name, work, options: measure_growth(name, rows=options.rows),
    "peak": lambda name, work, options: measure_peak(name, work, rows=options.rows),
    "race": _race,
    JOB: lambda name, work, options: measure_job(name, work),
}


def tasks_of(options: BenchmarkOptions) -> list[Task]:
    """Return every measurement of a round, in order."""
    chosen = options.contenders
    ours = [name for name in chosen if name.startswith(OURS)]
    contenders: dict[str, Sequence[str]] = {
        "training": chosen,
        JOB: chosen,
        "race": [name for name in RACERS if name in chosen] or chosen,
        "floor": [name for name in ours if name == "ours-bf16"] or ours,
        "prediction": list(PREDICTORS),
        "start-up": ["lora_scratch"],
        "growth": list(GROWTHS),
        "peak": list(GROWTHS),
    }
    return [(name, contender) for name in options.measures for contender in contenders[name]]


def _check_known(names: Sequence[str], known: Iterable[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"found {name!r}", where=where, expected=", ".join(known))
