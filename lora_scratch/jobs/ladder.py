"""The rungs of a comparison, and the table of what the runs on them reached.

A rung is a set of train.py's flags. All rungs share the rows, the budget and every other flag.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation import Table


@dataclass(frozen=True)
class Rung:
    """What it is, and the flags that make it so."""

    meaning: str
    flags: tuple[str, ...] = ()


RUNGS = {
    "lora": Rung("LoRA (Hu et al. 2021)"),
    "dora": Rung("DoRA, magnitude and direction apart (Liu et al. 2024)", ("--variant", "dora")),
    "rslora": Rung("rank-stabilised scaling alpha/sqrt(rank) (Kalajdzievski 2023)", ("--rslora", "true")),
    "loraplus": Rung("LoRA+, a faster B (Hayou et al. 2024)", ("--loraplus_ratio", "4")),
    "pissa": Rung("PiSSA, starting in the principal directions of W (Meng et al. 2024)", ("--init", "pissa")),
    "nf4": Rung("LoRA on a 4-bit base (Dettmers et al. 2023)", ("--base_precision", "nf4")),
}


@dataclass(frozen=True)
class Climb:
    """One run on a rung.

    Args:
        report: its report.json.
        cpu_seconds: of the whole job on all cores, baseline and final measurement included: unlike seconds on a clock it
            hardly depends on what else the machine does.
        adapter_bytes: size of its adapter_model.safetensors.
    """

    rung: str
    seed: int
    report: dict[str, Any]
    cpu_seconds: float
    adapter_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The figures of the run without its rows."""
        kept = ("baseline", "adapted", "parameters", "train")
        figures = {name: self.report[name] for name in kept}
        return {"rung": self.rung, "seed": self.seed, "cpu_seconds": self.cpu_seconds, "bytes": self.adapter_bytes} | figures


def summarise(climbs: Sequence[Climb]) -> Table:
    """A row for each rung: mean and sample standard deviation over the seeds, medians of time and memory."""
    rungs = dict.fromkeys(each.rung for each in climbs)
    header = [
        "rung",
        "seeds",
        "accuracy",
        "macro-F1",
        "adapter parameters",
        "adapter file",
        "training",
        "CPU time",
        "memory",
    ]
    return Table(header, [_row(name, [each for each in climbs if each.rung == name]) for name in rungs])


def _row(name: str, climbs: Sequence[Climb]) -> list[str]:
    train = [each.report["train"] for each in climbs]
    return [
        name,
        str(len(climbs)),
        _mean_and_spread(each.report["adapted"]["accuracy"] for each in climbs),
        _mean_and_spread(each.report["adapted"]["macro_f1"] for each in climbs),
        f"{climbs[0].report['parameters']['lora']:,}",
        f"{climbs[0].adapter_bytes / 1e6:.2f} MB",
        f"{statistics.median(each['seconds'] for each in train):,.0f} s",
        f"{statistics.median(each.cpu_seconds for each in climbs):,.0f} s",
        f"{statistics.median(each['peak_memory_bytes'] for each in train) / 2**20:,.0f} MiB",
    ]


def _mean_and_spread(values: Iterable[float]) -> str:
    """`0.9157 ± 0.0035`: mean and sample standard deviation, the latter from two values on."""
    found = list(values)
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.4f}{spread}"
