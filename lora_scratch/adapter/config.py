"""What to adapt and how strongly: the settings of an adapter, validated before a model is touched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import ConfigError


@dataclass
class LoRAConfig:
    """The settings of an adapter. The scripts turn these fields into flags, so each one carries its own help.

    Raises:
        ConfigError: a value out of bounds, with the bounds.
    """

    rank: int = field(default=8, metadata={"help": "width of the bottleneck: A is (rank, in), B is (out, rank)"})
    alpha: float = field(default=16.0, metadata={"help": "the update is scaled by alpha / rank"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on the input of the update path, in [0, 1)"})
    targets: list[str] | None = field(
        default=None,
        metadata={
            "help": "modules to adapt, by whole dotted components (q_lin, layer.0.attention.q_lin); default: by model family"
        },
    )
    rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank) instead of alpha / rank"})
    head_modules: list[str] | None = field(
        default=None,
        metadata={"help": "modules trained in full, by exact name; default: every module outside the encoder"},
    )

    def __post_init__(self) -> None:
        _require(isinstance(self.rank, int) and self.rank >= 1, "--rank", self.rank, "a whole number from 1")
        _require(0 < self.alpha < math.inf, "--alpha", self.alpha, "a finite number above 0")
        _require(0 <= self.dropout < 1, "--dropout", self.dropout, "a number from 0 to below 1")
        _require(self.targets is None or bool(self.targets), "--targets", self.targets, "at least one name")


def _require(holds: bool, where: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"found {found!r}", where=where, expected=expected)
