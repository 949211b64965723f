"""Select what a run trains: an adapter and the head, the adapter alone, or every parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..adapter import FULL, LoRAConfig, inject
from ..adapter.state import adapter_state
from ..errors import ConfigError
from ..model.base import Base
from ..runtime.atomic import new_folder
from .loading import resolve_adapter
from .options import ADAPTER, ALL


def make_trainable(
    model: nn.Module,
    trainable: str,
    config: LoRAConfig,
    *,
    seed: int,
    batches: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Let `trainable`, one of TRAINABLE, require gradients and nothing else.

    `all` injects no adapter. With `adapter` the head modules stay as they are, random where the
    base has none. The file holds them all the same: another copy of the base would draw others.

    Raises:
        ConfigError, TargetError: as `inject`.
    """
    if trainable == ALL:
        model.float().requires_grad_(True)  # GradScaler refuses float16 gradients; small steps vanish in bfloat16
        return
    inject(model, config, seed=seed, batches=batches)
    if trainable == ADAPTER:
        for head in adapter_state(model).config.head_modules or []:
            model.get_submodule(head).requires_grad_(False)


def resolve_trainable(base: Base, trainable: str, config: LoRAConfig, *, base_precision: str) -> LoRAConfig:
    """Return the config resolved for this base; unchanged where no adapter is trained.

    Raises:
        ConfigError: as `resolve_adapter`, or `all` with a base in four bits.
    """
    if trainable != ALL:
        return resolve_adapter(base, config)
    if base_precision != FULL:
        raise ConfigError(
            f"with --base_precision {base_precision}",
            where="--trainable all",
            expected="weights that can be trained",
            remedy="train an adapter on a base in four bits",
        )
    return config


def save_whole(base: Base, place: Path) -> None:
    """Save model and tokenizer as transformers reads them, whole or not at all."""
    with new_folder(place) as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
