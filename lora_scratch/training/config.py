"""The settings of the training loop, validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from ..runtime.json_text import parse_json
from ..runtime.options import flag
from ..runtime.precision import DTYPES
from .schedule import SCHEDULES

LOADED, PROBE, AUTO = HEAD_STARTS = ("loaded", "probe", "auto")
BALANCED = "balanced"


@dataclass
class TrainingConfig:
    """The settings of the training loop. The commands turn these fields into flags.

    Raises:
        ConfigError: a value out of bounds, with the bounds.
    """

    _argument_group_name = "training"  # the title of these flags in --help

    epochs: int = flag(3, "passes over the training rows")
    batch_size: int = flag(32, "rows in a forward pass, over all processes")
    learning_rate: float = flag(1e-3, "peak learning rate of AdamW")
    loraplus_ratio: float = flag(1.0, "LoRA+: learning rate of B over that of A (1: plain LoRA)")
    weight_decay: float = flag(0.01, "decoupled weight decay; biases and other vectors have none")
    warmup_ratio: float = flag(0.06, "share of all steps in which the learning rate rises from 0")
    schedule: str = flag("linear", f"fall of the learning rate: {', '.join(SCHEDULES)}")
    accumulation_steps: int = flag(1, "forward passes in an optimizer step")
    head_start: str = flag(
        LOADED, "first values of the head: loaded, probe (a fit to features), or auto (a fit, if possible)"
    )
    class_weights: str | None = flag(None, """weights of the labels in the loss: balanced, or JSON as '{"rare": 5}'""")
    label_smoothing: float = flag(0.0, "share of every target that is spread over all labels, in [0, 1)")
    best_by: str | None = flag(None, "validation score that the best tensors have; default: the task's first one")
    evaluate_every: int = flag(0, "optimizer steps between two validations; 0 for one after every epoch")
    patience: int = flag(0, "stop after so many validations in a row without a new best; 0 for never")
    clip_norm: float = flag(1.0, "largest global gradient norm; 0 switches clipping off")
    max_skipped: int = flag(25, "stop after so many steps in a row that are not finite")
    precision: str = flag("auto", "compute dtype: fp32, bf16, fp16, or auto (by device)")
    seed: int = flag(0, "seed of the head, the adapter, the order of rows and dropout")
    device: str = flag("auto", "cpu, cuda, or auto for CUDA if there is a GPU")
    threads: int = flag(0, "CPU threads; 0 leaves the choice to torch")
    plain: bool = flag(False, "use the plain path: the model's own code, without the fast path")

    def __post_init__(self) -> None:
        checks = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < 10, "above 0 and below 10"),
            "loraplus_ratio": (0 < self.loraplus_ratio < 1e4, "above 0 and below 10000"),
            "weight_decay": (0 <= self.weight_decay < 10, "at least 0 and below 10"),
            "warmup_ratio": (0 <= self.warmup_ratio < 1, "at least 0 and below 1"),
            "schedule": (self.schedule in SCHEDULES, " or ".join(SCHEDULES)),
            "accumulation_steps": (self.accumulation_steps >= 1, "at least 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "evaluate_every": (self.evaluate_every >= 0, "at least 0"),
            "patience": (self.patience >= 0, "at least 0"),
            "head_start": (self.head_start in HEAD_STARTS, " or ".join(HEAD_STARTS)),
            "clip_norm": (0 <= self.clip_norm < float("inf"), "at least 0"),
            "max_skipped": (self.max_skipped >= 1, "at least 1"),
            "precision": (self.precision in {"auto", *DTYPES}, f"auto, {', '.join(DTYPES)}"),
            "threads": (0 <= self.threads <= 4096, "0 to 4096"),
            "seed": (0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
        }
        for name, (valid, expected) in checks.items():
            if not valid:
                problem = f"found {getattr(self, name)!r}"
                raise ConfigError(problem, where=f"--{name}", expected=expected)
        _ = self.weights_by_label

    @property
    def weights_by_label(self) -> str | Mapping[str, float] | None:
        """The class weights, as `Task.weighted` takes them. Raises ConfigError for a text that is neither form."""
        if self.class_weights in (None, BALANCED):
            return self.class_weights
        try:
            weights = parse_json(str(self.class_weights))
        except ValueError:
            weights = None
        if not isinstance(weights, dict):
            expected = f"""{BALANCED}, or JSON such as '{{"rare": 5}}'"""
            raise ConfigError(f"found {self.class_weights!r}", where="--class_weights", expected=expected)
        return weights
