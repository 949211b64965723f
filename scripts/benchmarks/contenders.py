"""Who competes: each is a way to train the same adapter on the same rows, or every parameter of the same model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lora_scratch.commands.benchmarks.ours import build_ours, train_ours
from lora_scratch.commands.benchmarks.peer import build_full, build_peft, train_peer
from lora_scratch.commands.benchmarks.work import Work


@dataclass(frozen=True)
class Contender:
    """What it is, what makes its model, and what trains that: `train(model, work, rows, watch, validation=...)`.

    Args:
        by_length: rows of like length stand together in a batch, so some batches are far larger than others.
    """

    meaning: str
    build: Callable[[Work], Any]
    train: Callable[..., None]
    by_length: bool = False


_BEST: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length"}

CONTENDERS = {
    "peft": Contender("PEFT + Trainer as shipped: fp32, random batches, dynamic padding", build_peft, train_peer),
    "peft-onednn": Contender("the same with fp32 products through oneDNN", build_peft, partial(train_peer, onednn=True)),
    "peft-bf16": Contender("PEFT + Trainer with bf16=True", build_peft, partial(train_peer, bf16=True)),
    "peft-best": Contender(
        "with bf16=True and batches grouped by length", build_peft, partial(train_peer, **_BEST), by_length=True
    ),
    "full": Contender("Trainer as shipped on every parameter, no adapter", build_full, train_peer),
    "full-best": Contender(
        "the same with bf16=True, grouped by length", build_full, partial(train_peer, **_BEST), by_length=True
    ),
    "ours-plain": Contender(
        "lora-scratch --plain in fp32", build_ours, partial(train_ours, plain=True, precision="fp32"), by_length=True
    ),
    "ours-plain-bf16": Contender(
        "lora-scratch --plain in bf16", build_ours, partial(train_ours, plain=True, precision="bf16"), by_length=True
    ),
    "ours-fp32": Contender("lora-scratch in fp32", build_ours, partial(train_ours, precision="fp32"), by_length=True),
    "ours-bf16": Contender("lora-scratch in bf16", build_ours, partial(train_ours, precision="bf16"), by_length=True),
    "ours": Contender("lora-scratch in the precision of the flags", build_ours, train_ours, by_length=True),
}
DEFAULT = ("peft", "peft-onednn", "peft-best", "full", "ours-plain", "ours-fp32", "ours-bf16")
