"""The methods of a comparison, from the untouched model to full fine-tuning, and their results.

A method is a set of train's flags; data, budget and all other flags are the same for every method.
The command line calls a method a rung. `untrained` and `probe` need no training of their own: every
run of `lora` measures them too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluation import Report
from ..runs.logits import read_logits
from ..runs.resume import REPORT
from ..tasks import Metrics, Task

FULL_RATE = "5e-5"  # the largest of Devlin et al. 2019 (BERT), A.3; --flags_of sets another


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Args:
        flags: of train, after the flags that all methods share.
        measured_on: the method whose runs measure this one; None if it has runs of its own.
        model: its name in the logits of a run.
    """

    meaning: str
    flags: tuple[str, ...] = ()
    measured_on: str | None = None
    model: str = "adapted"


METHODS = {
    "untrained": Method("the model as it came, its new head random", (), "lora", "baseline"),
    "probe": Method("a linear probe on the frozen features", (), "lora", "probe"),
    "head": Method("the head alone on the frozen base", ("--trainable", "head")),
    "bitfit": Method("BitFit, all biases and the head (Ben Zaken et al. 2022)", ("--trainable", "bitfit")),
    "lora_no_head": Method("LoRA, the head as it came", ("--trainable", "adapter")),
    "lora": Method("LoRA and head (Hu et al. 2021)", ("--linear_probe", "true")),
    "dora": Method("DoRA, magnitude and direction apart (Liu et al. 2024)", ("--variant", "dora")),
    "full": Method("full fine-tuning", ("--trainable", "all", "--learning_rate", FULL_RATE)),
    "rslora": Method("rank-stabilized scaling alpha/sqrt(rank) (Kalajdzievski 2023)", ("--rslora", "true")),
    "loraplus": Method("LoRA+, a faster B (Hayou et al. 2024)", ("--loraplus_ratio", "4")),
    "pissa": Method("PiSSA, starting in the principal directions of W (Meng et al. 2024)", ("--init", "pissa")),
    "nf4": Method("LoRA on a 4-bit base (Dettmers et al. 2023)", ("--base_precision", "nf4")),
}
DEFAULT_METHODS = ("untrained", "probe", "lora_no_head", "lora", "dora", "full")


@dataclass(frozen=True)
class Run:
    """A run of a comparison; `rows` is its number of training rows, None for all."""

    method: str
    seed: int
    rows: int | None = None

    @property
    def trained_method(self) -> str:
        """The method whose training measures this run."""
        return METHODS[self.method].measured_on or self.method

    def place(self, folder: Path) -> Path:
        """Return its run folder inside the folder of the comparison."""
        limit = "" if self.rows is None else f"rows-{self.rows}"
        return folder / self.trained_method / limit / f"seed-{self.seed}"

    def flags(self) -> list[str]:
        """Return its flags of train, but for the folder."""
        limit = [] if self.rows is None else ["--limit_train", str(self.rows)]
        return [*METHODS[self.trained_method].flags, "--seed", str(self.seed), *limit]

    def as_json(self) -> dict[str, Any]:
        """Return its entries in comparison.json."""
        return {"rung": self.method, "seed": self.seed, "rows": self.rows}


@dataclass(frozen=True)
class RunResult:
    """Metrics and costs of a run; a cost is None if nothing was trained or saved.

    Args:
        trained: the number of trained parameters.
        file_bytes: the size of the adapter, or of the whole model for `full`, `head` and `bitfit`.
        seconds: of the training with its validations.
        cpu_seconds: the same on all cores; other work on the machine hardly changes it.
        logits, labels: of the test rows, (n, C) and (n,).
    """

    run: Run
    task: Task
    metrics: Metrics
    logits: Tensor
    labels: Tensor
    trained: int = 0
    file_bytes: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def shown_scores(self) -> dict[str, float]:
        """The first two scores: the headline, and one beside it."""
        return dict(list(self.metrics.scores.items())[:2])

    def as_json(self) -> dict[str, Any]:
        """Return the figures without the rows, because the data can be private."""
        costs = ("trained", "file_bytes", "seconds", "cpu_seconds", "memory_bytes")
        figures = {name: getattr(self, name) for name in costs}
        return {**self.run.as_json(), **asdict(self.metrics), **figures}


def read_run_result(run: Run, folder: Path) -> RunResult:
    """Read the result of a finished run.

    Raises:
        LoraScratchError: a file of the run is missing or damaged.
    """
    place, model = run.place(folder), METHODS[run.method].model
    logits, report = read_logits(place), Report.read(place / REPORT)
    costs: dict[str, Any] = {}
    if model == "probe" and report.probe:
        costs = {"trained": report.probe.parameters, "cpu_seconds": report.probe.cpu_seconds}
    if model == "adapted" and report.train:
        train = report.train
        costs = {"trained": report.parameters.trainable, "file_bytes": _saved_bytes(place)}
        costs |= {"seconds": train.seconds, "cpu_seconds": train.cpu_seconds}
        costs["memory_bytes"] = train.peak_memory_bytes
    labels = logits["labels"]
    task = report.make_task()
    return RunResult(run, task, task.measure(logits[model], labels), logits[model], labels, **costs)


def _saved_bytes(place: Path) -> int:
    files = [file for kind in ("adapter", "model") for file in (place / kind).glob("*.safetensors")]
    return sum(file.stat().st_size for file in files)
