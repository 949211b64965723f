"""Select what a run trains: an adapter and the head, the adapter alone, or parameters of the base itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..adapter import FULL, LoRAConfig, inject
from ..adapter.state import adapter_state
from ..adapter.targets import find_heads
from ..errors import ConfigError
from ..model.base import Base, output_layer
from ..model.families import default_heads
from ..runtime.atomic import new_folder
from ..training import TrainingConfig
from ..training.config import AUTO, LOADED, PROBE
from .loading import check_covered, resolve_adapter
from .options import ADAPTER, ALL, BITFIT, WITH_ADAPTER


def make_trainable(
    model: nn.Module,
    trainable: str,
    config: LoRAConfig,
    *,
    seed: int,
    batches: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Let `trainable`, one of TRAINABLE, require gradients and nothing else.

    `all`, `head` and `bitfit` (all biases and the head) inject no adapter. With `adapter` the head
    modules stay as they are, random where the base has none. The file holds them all the same: another
    copy of the base would draw others.

    Raises:
        ConfigError, TargetError: as `inject`; `bitfit` for a model without biases.

    Source: Ben Zaken et al. 2022, BitFit, arXiv:2106.10199.
    """
    if trainable not in WITH_ADAPTER:
        _train_base(model, trainable, heads=config.head_modules or [])
        return
    inject(model, config, seed=seed, batches=batches)
    if trainable == ADAPTER:
        for head in adapter_state(model).config.head_modules or []:
            model.get_submodule(head).requires_grad_(False)


def resolve_trainable(base: Base, trainable: str, config: LoRAConfig, *, base_precision: str) -> LoRAConfig:
    """Return the config resolved for this base. Without an adapter, only the head modules are.

    Raises:
        ConfigError: as `resolve_adapter`, or a base in four bits without an adapter.
    """
    if trainable in WITH_ADAPTER:
        return resolve_adapter(base, config)
    if base_precision != FULL:
        raise ConfigError(
            f"with --base_precision {base_precision}",
            where=f"--trainable {trainable}",
            expected="weights that can be trained",
            remedy="train an adapter on a base in four bits",
        )
    if trainable == ALL:
        return config
    heads = list(find_heads(base.model, config.head_modules or default_heads(base.model)))
    check_covered(base, heads)
    return replace(config, head_modules=heads)


def resolve_head_start(training: TrainingConfig, base: Base, *, keeps_head: bool) -> TrainingConfig:
    """Return the settings with `loaded` in place of `auto` where the head is a trained one.

    Args:
        keeps_head: whether the head of an adapter is kept.

    Raises:
        ConfigError: a fit that would replace the head that is kept.
    """
    if keeps_head and training.head_start == PROBE:
        found, remedy = "--start_from keeps its trained head, which a fit would replace", "leave --head_start out"
        raise ConfigError(found, where=f"--head_start {PROBE}", expected=f"{LOADED} or {AUTO}", remedy=remedy)
    output = output_layer(base.model)
    trained = output is not None and f"{output}.weight" not in base.newly_initialized
    return replace(training, head_start=LOADED) if training.head_start == AUTO and (trained or keeps_head) else training


def _train_base(model: nn.Module, trainable: str, *, heads: Sequence[str]) -> None:
    model.float()  # GradScaler refuses float16 gradients; small steps vanish in bfloat16
    inside = tuple(f"{head}." for head in heads)
    for name, parameter in model.named_parameters():
        bias = trainable == BITFIT and name.endswith("bias")
        parameter.requires_grad_(trainable == ALL or bias or name.startswith(inside))
    if trainable == BITFIT and not any(name.endswith("bias") for name, _ in model.named_parameters()):
        raise ConfigError("the model has no biases", where=f"--trainable {BITFIT}", remedy="train an adapter")


def save_whole(base: Base, place: Path) -> None:
    """Save model and tokenizer as transformers reads them, whole or not at all."""
    with new_folder(place) as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
