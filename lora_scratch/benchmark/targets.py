"""What the project sets out to reach, each as a number that the same run has measured, or has not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .figures import Figures


@dataclass(frozen=True)
class Target:
    """A row of the table: `measured` has to be at least `bound`, or at most.

    Args:
        any_work: it holds whatever the model, the rows and the settings are.
    """

    row: str
    relation: str
    bound: float
    measured: Callable[[Figures], float | None]
    any_work: bool = False

    def judge(self, figures: Figures, *, is_default_work: bool) -> dict[str, Any]:
        """Row, target, what was measured and whether that is enough; None where it was not measured, or on other work.

        Args:
            is_default_work: the model, rows and settings are those that the targets were set for.
        """
        found = self.measured(figures)
        met = None if found is None else found >= self.bound if self.relation == ">=" else found <= self.bound
        if not (is_default_work or self.any_work):
            met = None
        finite = found if found is not None and math.isfinite(found) else None  # JSON has no infinity
        return {"row": self.row, "target": f"{self.relation} {self.bound:.4g}", "measured": finite, "met": met}


def _speed(contender: str, to: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.ratio("training", "tokens_per_second", contender, to)


def _share_of_floor(figures: Figures) -> float | None:
    ours = figures.median("training", "ours-bf16", "tokens_per_second")
    floor = figures.median("floor", "ours-bf16", "tokens_per_second")
    return ours / floor if ours and floor else None


def _memory(figures: Figures) -> float | None:
    return figures.ratio("training", "peak_memory_above_model_bytes", "ours-bf16", "peft")


def _race(figures: Figures) -> float | None:
    """Infinite if ours did not get there at all."""
    ours, theirs = (figures.median("race", name, "seconds_to_goal") for name in ("ours-bf16", "peft-best"))
    if ours is None and figures.of("race", "ours-bf16"):
        return math.inf
    return ours / theirs if ours and theirs else None


TARGETS = (
    Target("training tokens/s against PEFT + Trainer as shipped", ">=", 11, _speed("ours-bf16", "peft")),
    Target("against PEFT + Trainer at its best (bf16, grouped)", ">=", 2.5, _speed("ours-bf16", "peft-best")),
    Target("fp32 against as shipped", ">=", 3.5, _speed("ours-fp32", "peft")),
    Target("fp32 against as shipped with the oneDNN switch", ">=", 2, _speed("ours-fp32", "peft-onednn")),
    Target("share of the matrix products' floor in bf16 training", ">=", 0.7, _share_of_floor),
    Target("peak memory above the loaded model, against as shipped", "<=", 0.4, _memory),
    Target("seconds to the accuracy, against PEFT + Trainer at its best", "<=", 1 / 3, _race, any_work=True),
    Target(
        "prediction texts/s against transformers.pipeline",
        ">=",
        8,
        lambda figures: figures.ratio("prediction", "texts_per_second", "ours-bf16", "pipeline"),
    ),
    Target(
        "labels that agree with transformers.pipeline",
        ">=",
        0.998,
        lambda figures: figures.agreement("ours-bf16", "pipeline"),
    ),
    Target(
        "`import lora_scratch` beyond `import torch`, seconds",
        "<=",
        0.1,
        lambda figures: figures.median("start-up", "lora_scratch", "seconds"),
        any_work=True,
    ),
    Target(
        "memory of prediction with 100 times the texts",
        "<=",
        1.05,
        lambda figures: figures.median("growth", "prediction", "ratio"),
        any_work=True,
    ),
    Target(
        "memory of training with 100 times the rows",
        "<=",
        1.05,
        lambda figures: figures.median("growth", "training", "ratio"),
        any_work=True,
    ),
)
