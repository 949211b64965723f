"""What a run trains: an adapter and the head, the adapter alone, or every parameter there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..adapter import FULL, LoRAConfig, inject
from ..adapter.state import adapter_state
from ..errors import ConfigError
from ..model import Base
from ..runtime.atomic import new_folder
from .loading import resolve_adapter
from .options import ADAPTER, ALL


def make_trainable(
    model: nn.Module,
    what: str,
    config: LoRAConfig,
    *,
    seed: int,
    batches: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Let `what`, one of TRAINABLE, require gradients, and nothing else; for `all` no adapter is injected.

    With `adapter` the head modules stay as they came, random where the base has none. They are in the adapter's file all the
    same: without them it would mean something else on another copy of the base.

    Raises:
        ConfigError, TargetError: as `inject`.
    """
    if what == ALL:
        model.float().requires_grad_(True)  # GradScaler refuses float16 gradients; small steps vanish in bfloat16
        return
    inject(model, config, seed=seed, batches=batches)
    if what == ADAPTER:
        for head in adapter_state(model).config.head_modules or []:
            model.get_submodule(head).requires_grad_(False)


def resolve_trainable(base: Base, what: str, config: LoRAConfig, *, base_precision: str) -> LoRAConfig:
    """`resolve_adapter`, where there is to be one; else the config as it is, which nothing reads.

    Raises:
        ConfigError: as there; or all of a base in four bits is to be trained.
    """
    if what != ALL:
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
    """Model and tokenizer as transformers reads them, all of it or nothing."""
    with new_folder(place) as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
