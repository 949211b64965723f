"""What would be adapted, worked out without touching the model: `inject` carries it out, `print(dry_run(...))` shows it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import ConfigError, TargetError
from ..layers import OFFSET_METHODS, AdapterLayer, NoRandomNumbers, OffsetLoRALinear, adapter_class, initialize
from ..model.families import default_heads
from .config import ALL_LINEAR, LoRAConfig, alpha_of, fits, rank_of
from .targets import check_rank, default_targets, features, find_heads, find_targets, nearest, shared_names


@dataclass(frozen=True)
class PlannedLayer:
    """One layer to be adapted, and how."""

    name: str
    module: nn.Module
    config: LoRAConfig

    @property
    def rank(self) -> int:
        """Its rank, with `rank_pattern`."""
        return rank_of(self.config, self.name)

    @property
    def alpha(self) -> float:
        """Its alpha, with `alpha_pattern`."""
        return alpha_of(self.config, self.name)

    @property
    def parameters(self) -> int:
        """How many numbers are trained in it: counted on a copy without memory, so for every class alike."""
        memo = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in self.module.parameters()}
        with NoRandomNumbers():
            twin = self._wrap(copy.deepcopy(self.module, memo), None)
        return sum(p.numel() for p in twin.adapter_tensors().values() if p.requires_grad)

    def build(self, generator: torch.Generator) -> AdapterLayer:
        """The adapter layer around the module.

        Raises:
            ConfigError: the layer's class can't take this module or these settings.
        """
        try:
            # init peft draws every number itself, and has to be the only one to draw from this generator
            with NoRandomNumbers() if self.config.init == "peft" else nullcontext():
                layer = self._wrap(self.module, generator)
            initialize(layer, self.config.init, generator)
        except ValueError as error:
            raise ConfigError(str(error), where=self.name) from error
        return layer

    def _wrap(self, module: nn.Module, generator: torch.Generator | None) -> AdapterLayer:
        cls = adapter_class(self.config.variant, module)
        if cls is None:
            raise ConfigError(f"{type(module).__name__} can't be adapted", where=self.name)
        if self.config.init in OFFSET_METHODS:
            cls = OffsetLoRALinear
        config = self.config
        return cls(module, self.rank, self.alpha, dropout=config.dropout, rslora=config.rslora, generator=generator)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Plan:
    """What an injection does. `str(plan)` is a table.

    Args:
        config: with targets and head modules filled in.
        layers: the layers to adapt, in the model's order.
        heads: the modules trained in full.
        biases: the biases of the base to train, by name.
    """

    config: LoRAConfig
    layers: tuple[PlannedLayer, ...]
    heads: dict[str, nn.Module]
    biases: dict[str, nn.Parameter]

    def __str__(self) -> str:
        rows = list(self._rows())
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self._totals()])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "module", "type", "in -> out", "rank", "alpha", "parameters"
        for layer in self.layers:
            shape = "{} -> {}".format(*features(layer.module))
            kind = type(layer.module).__name__
            yield layer.name, kind, shape, str(layer.rank), f"{layer.alpha:g}", f"{layer.parameters:,}"

    def _totals(self) -> Iterator[str]:
        config = self.config
        total = sum(layer.parameters for layer in self.layers)
        yield f"{len(self.layers)} layers, {config.variant}, init {config.init}: {total:,} parameters"
        for name, head in self.heads.items():
            yield f"head {name}, trained in full: {sum(p.numel() for p in head.parameters()):,} parameters"
        if self.biases:
            yield f"{len(self.biases)} biases of the base: {sum(p.numel() for p in self.biases.values()):,} parameters"


def dry_run(model: nn.Module, config: LoRAConfig) -> Plan:
    """The plan that `inject(model, config)` would carry out; the model is not changed.

    Raises:
        TargetError: a name, pattern or layer number that matches nothing.
        ConfigError: a rank above a layer's, a tied weight, or settings that this model can't have.
    """
    config = resolve(model, config)
    heads = find_heads(model, config.head_modules or [])
    found = _targets(model, config)
    layers = tuple(PlannedLayer(name, module, config) for name, module in found.items())
    for layer in layers:
        check_rank(layer.name, layer.module, layer.rank)
        _check_stored_rank(layer)
    for name in (*found, *heads):
        _check_untied(model, name, heads)
    _check_patterns(config, list(found))
    return Plan(config, layers, heads, _biases(model, config, found))


def resolve(model: nn.Module, config: LoRAConfig) -> LoRAConfig:
    """The config with what was left open (targets, head modules) filled in for this model; `all-linear` becomes names."""
    heads = default_heads(model) if config.head_modules is None else list(config.head_modules)
    config = replace(config, targets=list(config.targets or default_targets(model)), head_modules=heads)
    return replace(config, targets=list(_targets(model, config))) if config.targets == [ALL_LINEAR] else config


def _targets(model: nn.Module, config: LoRAConfig) -> dict[str, nn.Module]:
    return find_targets(
        model,
        config.targets or [],
        variant=config.variant,
        heads=config.head_modules or [],
        exclude=config.exclude or [],
        layers=config.layers,
    )


def _check_stored_rank(layer: PlannedLayer) -> None:
    widest = min(features(layer.module)) // 2
    if layer.config.init in OFFSET_METHODS and layer.rank > widest:
        raise ConfigError(
            f"rank {layer.rank} on {layer.name} with init {layer.config.init}, which is stored as LoRA of twice the rank",
            where="--rank",
            expected=f"at most {widest}",
        )


def _check_untied(model: nn.Module, name: str, heads: dict[str, nn.Module]) -> None:
    shared = [other for other in shared_names(model, name) if not any(other.startswith(f"{head}.") for head in heads)]
    if shared:
        raise ConfigError(
            f"it shares its weight with {', '.join(shared)}: changing one would untie them",
            where=name,
            remedy="leave it out of the targets and head modules, or untie the weights first",
        )


def _check_patterns(config: LoRAConfig, names: list[str]) -> None:
    for where, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in patterns:
            if not any(fits(key, name) for name in names):
                raise TargetError(
                    f"{key!r} fits no adapted module",
                    where=where,
                    available=names,
                    remedy=f"nearest: {', '.join(nearest(key, names))}",
                )


def _biases(model: nn.Module, config: LoRAConfig, targets: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    if config.bias == "none":
        return {}
    heads = tuple(f"{head}." for head in config.head_modules or [])
    biases = {n: p for n, p in model.named_parameters() if n.rpartition(".")[2] == "bias" and not n.startswith(heads)}
    if config.bias == "lora_only":
        biases = {name: p for name, p in biases.items() if name.rpartition(".")[0] in targets}
    if not biases:
        raise ConfigError("there is no bias to train", where="--bias", remedy="use --bias none")
    narrow = [name for name, p in biases.items() if p.dtype in (torch.float16, torch.bfloat16)]
    if narrow:
        raise ConfigError(
            f"{narrow[0]} is {biases[narrow[0]].dtype}, in which small steps are lost", where="--bias", expected="float32"
        )
    return biases
