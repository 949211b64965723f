"""The flags of the acceptance run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lora_scratch.commands.benchmarks.acceptance.parts import PARTS

from lora_scratch.errors import ConfigError

NAMES = tuple(part.name for part in PARTS)


def _flag(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass
class AcceptanceOptions:
    """What to prove and measure, and in how much time.

    Raises:
        ConfigError: a part that there is not, or no time.
    """

    only: list[str] = field(default_factory=lambda: list(NAMES), metadata={"help": f"parts to run: {', '.join(NAMES)}"})
    model: str | None = _flag(None, "folder of an encoder, for the part `minilm`")
    dataset: str | None = _flag(None, "rows for the part `minilm`, as train.py takes them")
    device: str = _flag("auto", "cuda, cpu for the small form, or auto for cuda where there is a GPU")
    minutes: float = _flag(8.0, "minutes for all parts together; a part that has not begun by then fails")
    json: str | None = _flag(None, "write results and figures to this file")
    part: str | None = _flag(None, "run this one part here and print its finding as JSON; the command calls itself so")

    def __post_init__(self) -> None:
        for flag, names in (("--only", self.only), ("--part", [self.part] if self.part else [])):
            for name in names:
                if name not in NAMES:
                    raise ConfigError(f"found {name!r}", where=flag, expected=", ".join(NAMES))
        if not 0 < self.minutes < math.inf:
            raise ConfigError(f"found {self.minutes}", where="--minutes", expected="a number of minutes above 0")
        if self.device not in ("auto", "cuda", "cpu"):
            raise ConfigError(
                f"found {self.device!r}",
                where="--device",
                expected="auto, cuda or cpu",
                remedy="choose one of several GPUs with CUDA_VISIBLE_DEVICES",
            )
