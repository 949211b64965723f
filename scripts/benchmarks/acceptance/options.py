"""The flags of the acceptance run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lora_scratch.errors import ConfigError
from lora_scratch.runtime.options import flag

from .parts import PARTS

NAMES = tuple(part.name for part in PARTS)


@dataclass
class AcceptanceOptions:
    """What to prove and measure, and in how much time.

    Raises:
        ConfigError: an unknown part, or no time.
    """

    only: list[str] = field(
        default_factory=lambda: list(NAMES),
        metadata={"help": f"parts to run: {', '.join(NAMES)}"},
    )
    model: str | None = flag(None, "folder of an encoder, for the part `minilm`")
    dataset: str | None = flag(None, "rows for the part `minilm`, as train.py takes them")
    device: str = flag("auto", "cuda, cpu for the small form, or auto for cuda if there is a GPU")
    minutes: float = flag(10.0, "minutes for all parts; a part that has not started by then fails")
    json: str | None = flag(None, "write results and figures to this file")
    part: str | None = flag(None, "run this one part here and print its finding as JSON")

    def __post_init__(self) -> None:
        for where, names in (("--only", self.only), ("--part", [self.part] if self.part else [])):
            for name in names:
                if name not in NAMES:
                    expected = ", ".join(NAMES)
                    raise ConfigError(f"found {name!r}", where=where, expected=expected)
        if not 0 < self.minutes < math.inf:
            expected = "a number of minutes above 0"
            raise ConfigError(f"found {self.minutes}", where="--minutes", expected=expected)
        if self.device not in ("auto", "cuda", "cpu"):
            raise ConfigError(
                f"found {self.device!r}",
                where="--device",
                expected="auto, cuda or cpu",
                remedy="choose one of several GPUs with CUDA_VISIBLE_DEVICES",
            )
