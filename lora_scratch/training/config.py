"""How to train: the settings of the loop, validated."""

from __future__ import annotations

from dataclasses import dataclass

from ..adapter.config import flag
from ..errors import ConfigError
from ..runtime.precision import DTYPES
from .schedule import SCHEDULES

LOADED, PROBE = HEAD_STARTS = ("loaded", "probe")  # as the model came, or fitted to the frozen features


@dataclass
class TrainingConfig:
    """The settings of the training loop. The scripts turn these fields into flags.

    Raises:
        ConfigError: a value out of bounds, with the bounds.
    """

    _argument_group_name = "training"  # the title of these flags in --help

    epochs: int = flag(3, "passes over the training rows")
    batch_size: int = flag(32, "rows in a forward pass, over all processes")
    learning_rate: float = flag(1e-3, "peak learning rate of AdamW")
    loraplus_ratio: float = flag(1.0, "LoRA+: the learning rate of B is this many times that of A (1: plain LoRA)")
    weight_decay: float = flag(0.01, "decoupled weight decay; biases and other vectors have none")
    warmup_ratio: float = flag(0.06, "share of all optimizer steps in which the learning rate rises from 0")
    schedule: str = flag("linear", f"how the learning rate falls after the warm-up: {', '.join(SCHEDULES)}")
    accumulation_steps: int = flag(1, "forward passes in an optimizer step")
    head_start: str = flag(
        LOADED, "where the head starts: loaded, as the model came, or probe, fitted to the frozen features in some seconds"
    )
    clip_norm: float = flag(1.0, "largest global gradient norm; 0 switches clipping off")
    max_skipped: int = flag(25, "steps in a row without a finite loss and gradient after which the run stops")
    precision: str = flag("auto", "compute dtype: fp32, bf16, fp16, or auto for what the device does well")
    seed: int = flag(0, "seed of the head, the adapter, the order of rows and dropout")
    device: str = flag("auto", "cpu, cuda, or auto for CUDA where there is a GPU")
    threads: int = flag(0, "CPU threads; 0 leaves the choice to torch")
    plain: bool = flag(False, "the plain path: without the fast one, which is equal to rounding, or in law for dropout")

    def __post_init__(self) -> None:
        checks: list[tuple[bool, str, object, str]] = [
            (self.epochs >= 1, "--epochs", self.epochs, "at least 1"),
            (self.batch_size >= 1, "--batch_size", self.batch_size, "at least 1"),
            (0 < self.learning_rate < 10, "--learning_rate", self.learning_rate, "above 0 and below 10"),
            (0 < self.loraplus_ratio < 1e4, "--loraplus_ratio", self.loraplus_ratio, "above 0"),
            (0 <= self.weight_decay < 10, "--weight_decay", self.weight_decay, "at least 0 and below 10"),
            (0 <= self.warmup_ratio < 1, "--warmup_ratio", self.warmup_ratio, "at least 0 and below 1"),
            (self.schedule in SCHEDULES, "--schedule", self.schedule, " or ".join(SCHEDULES)),
            (self.accumulation_steps >= 1, "--accumulation_steps", self.accumulation_steps, "at least 1"),
            (self.head_start in HEAD_STARTS, "--head_start", self.head_start, " or ".join(HEAD_STARTS)),
            (0 <= self.clip_norm < float("inf"), "--clip_norm", self.clip_norm, "at least 0"),
            (self.max_skipped >= 1, "--max_skipped", self.max_skipped, "at least 1"),
            (self.precision in {"auto", *DTYPES}, "--precision", self.precision, f"auto, {', '.join(DTYPES)}"),
            (0 <= self.threads <= 4096, "--threads", self.threads, "0 to 4096"),
            (0 <= self.seed < 2**63, "--seed", self.seed, "from 0 to 2^63 - 1"),
        ]
        for holds, where, found, expected in checks:
            if not holds:
                raise ConfigError(f"found {found!r}", where=where, expected=expected)
