"""The rungs of a comparison, from the untouched model to full fine-tuning, and what the run on a rung reached.

A rung is a set of train.py's flags. All rungs share the rows, the budget and every other flag. The lowest two cost no run of
their own: every run of the rung `lora` measures the untrained head and the linear probe on its way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluation import Metrics, Report, measure
from ..runs.logits import read_logits
from ..runs.resume import REPORT

FULL_RATE = "5e-5"  # the largest that Devlin et al. 2019 (BERT, appendix A.3) try; --flags_of sets another


@dataclass(frozen=True)
class Method:
    """What it is, and how it comes about.

    Args:
        flags: of train.py, after those that all rungs share.
        run: the rung on whose runs it is measured; one of its own if None.
        model: which of the models in a run's logits it is.
    """

    meaning: str
    flags: tuple[str, ...] = ()
    run: str | None = None
    model: str = "adapted"


RUNGS = {
    "untrained": Method("the model as it came, its new head random", run="lora", model="baseline"),
    "probe": Method("a linear probe on the frozen features", run="lora", model="probe"),
    "lora_no_head": Method("LoRA, the head as it came", ("--trainable", "adapter")),
    "lora": Method("LoRA and head (Hu et al. 2021)", ("--linear_probe", "true")),
    "dora": Method("DoRA, magnitude and direction apart (Liu et al. 2024)", ("--variant", "dora")),
    "full": Method("full fine-tuning", ("--trainable", "all", "--learning_rate", FULL_RATE)),
    "rslora": Method("rank-stabilized scaling alpha/sqrt(rank) (Kalajdzievski 2023)", ("--rslora", "true")),
    "loraplus": Method("LoRA+, a faster B (Hayou et al. 2024)", ("--loraplus_ratio", "4")),
    "pissa": Method("PiSSA, starting in the principal directions of W (Meng et al. 2024)", ("--init", "pissa")),
    "nf4": Method("LoRA on a 4-bit base (Dettmers et al. 2023)", ("--base_precision", "nf4")),
}
LADDER = ("untrained", "probe", "lora_no_head", "lora", "dora", "full")


@dataclass(frozen=True)
class Step:
    """One attempt: a rung, a seed, and the number of training rows if it is not that of the data set."""

    rung: str
    seed: int
    rows: int | None = None

    @property
    def run(self) -> str:
        """The rung whose training it is measured on."""
        return RUNGS[self.rung].run or self.rung

    def place(self, folder: Path) -> Path:
        """The run folder that holds it."""
        of_rung = folder / self.run
        return (of_rung if self.rows is None else of_rung / f"rows-{self.rows}") / f"seed-{self.seed}"

    def flags(self) -> list[str]:
        """Those of train.py, but for the place."""
        limit = [] if self.rows is None else ["--limit_train", str(self.rows)]
        return [*RUNGS[self.run].flags, "--seed", str(self.seed), *limit]


@dataclass(frozen=True)
class RunResult:
    """What a step came to. Costs are None where there are none: nothing is trained, or nothing is saved.

    Args:
        trained: parameters that were.
        file_bytes: size of what a reader of the result has to load beside the base (in place of it, for `full`).
        seconds: of the training, with its validations.
        cpu_seconds: the same on all cores: unlike seconds on a clock it hardly depends on what else the machine does.
        logits, labels: of the test rows, (n, C) and (n,).
    """

    step: Step
    metrics: Metrics
    logits: Tensor
    labels: Tensor
    trained: int = 0
    file_bytes: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The figures without the rows: the data set may not be one to share."""
        costs = ("trained", "file_bytes", "seconds", "cpu_seconds", "memory_bytes")
        return {**asdict(self.step), **asdict(self.metrics), **{name: getattr(self, name) for name in costs}}


def read_run_result(step: Step, folder: Path) -> RunResult:
    """Read the result of a step from its finished run.

    Raises:
        DataError, LoraScratchError: a file of the run is gone or damaged.
    """
    place, model = step.place(folder), RUNGS[step.rung].model
    logits, report = read_logits(place), Report.read(place / REPORT)
    costs: dict[str, Any] = {}
    if model == "probe" and report.probe:
        costs = {"trained": report.probe.parameters, "cpu_seconds": report.probe.cpu_seconds}
    if model == "adapted" and report.train:
        train = report.train
        costs = {"trained": report.parameters.trainable, "file_bytes": _size(place), "seconds": train.seconds}
        costs |= {"cpu_seconds": train.cpu_seconds, "memory_bytes": train.peak_memory_bytes}
    labels = logits["labels"]
    return RunResult(step, measure(logits[model], labels), logits=logits[model], labels=labels, **costs)


def _size(place: Path) -> int:
    return sum(file.stat().st_size for kind in ("adapter", "model") for file in (place / kind).glob("*.safetensors"))
