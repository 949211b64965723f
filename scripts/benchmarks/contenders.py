"""The contenders: each trains the same adapter on the same rows, or the whole of the same model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .ours import build_ours, train_ours
from .peer import build_full, build_peft, train_peer
from .work import Work


@dataclass(frozen=True)
class Contender:
    """A way to train.

    Args:
        meaning: what it is, in a few words.
        build: makes its model.
        train: trains that model: `train(model, work, rows, watch, validation=...)`.
        by_length: whether a batch holds rows of like length, so that some batches are far larger
            than others.
    """

    meaning: str
    build: Callable[[Work], Any]
    train: Callable[..., None]
    by_length: bool = False


def _ours(meaning: str, **options: Any) -> Contender:
    return Contender(meaning, build_ours, partial(train_ours, **options), by_length=True)


_BEST: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length"}
_train_best = partial(train_peer, **_BEST)

CONTENDERS = {
    "peft": Contender(
        "PEFT + Trainer as shipped: fp32, random batches, dynamic padding",
        build_peft,
        train_peer,
    ),
    "peft-onednn": Contender(
        "PEFT + Trainer with fp32 products through oneDNN",
        build_peft,
        partial(train_peer, onednn=True),
    ),
    "peft-bf16": Contender(
        "PEFT + Trainer with bf16=True",
        build_peft,
        partial(train_peer, bf16=True),
    ),
    "peft-best": Contender(
        "PEFT + Trainer with bf16=True and batches grouped by length",
        build_peft,
        _train_best,
        by_length=True,
    ),
    "full": Contender("Trainer as shipped on every parameter, no adapter", build_full, train_peer),
    "full-best": Contender(
        "Trainer on every parameter with bf16=True and batches grouped by length",
        build_full,
        _train_best,
        by_length=True,
    ),
    "ours-plain": _ours("lora-scratch --plain in fp32", plain=True, precision="fp32"),
    "ours-plain-bf16": _ours("lora-scratch --plain in bf16", plain=True, precision="bf16"),
    "ours-fp32": _ours("lora-scratch in fp32", precision="fp32"),
    "ours-bf16": _ours("lora-scratch in bf16", precision="bf16"),
    "ours": _ours("lora-scratch in the precision of the flags"),
}
DEFAULT = ("peft", "peft-onednn", "peft-best", "full", "ours-plain", "ours-fp32", "ours-bf16")
