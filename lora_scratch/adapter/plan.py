"""Plan what `inject` adapts, without changing the model: `print(dry_run(model, config))`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import (
    OFFSET_METHODS,
    AdapterLayer,
    NoRandomNumbers,
    OffsetLoRALinear,
    adapter_class,
    feature_counts,
    initialize,
)
from ..model.wrappers import unwrapped
from .config import ALL_LINEAR, LoRAConfig, alpha_of, rank_of
from .targets import check_rank, check_untied, default_targets, find_heads, find_targets, no_match


@dataclass(frozen=True)
class PlannedLayer:
    """One layer to be adapted, and how. `rank` and `alpha` are those of this layer."""

    name: str
    module: nn.Module
    config: LoRAConfig
    rank: int
    alpha: float

    @property
    def parameters(self) -> int:
        """The number of trained parameters, counted on a copy on the meta device, which holds no data."""
        parameters = self.module.parameters()
        memo = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in parameters}
        with NoRandomNumbers():
            layer = self._wrap(copy.deepcopy(self.module, memo), None)
        return _entries(p for p in layer.adapter_tensors().values() if p.requires_grad)

    def build(self, generator: torch.Generator) -> AdapterLayer:
        """Return the adapter layer around the module. Raise ConfigError if it can't be built."""
        try:
            # init peft draws all numbers itself: the constructor must not draw from this generator
            with NoRandomNumbers() if self.config.init == "peft" else nullcontext():
                layer = self._wrap(self.module, generator)
            initialize(layer, self.config.init, generator)
        except ValueError as error:
            raise ConfigError(str(error), where=self.name) from error
        return layer

    def _wrap(self, module: nn.Module, generator: torch.Generator | None) -> AdapterLayer:
        config, cls = self.config, adapter_class(self.config.variant, module)
        if cls is None:
            raise ConfigError(f"{type(module).__name__} can't be adapted", where=self.name)
        if config.init in OFFSET_METHODS:
            cls = OffsetLoRALinear
        options = {"dropout": config.dropout, "rslora": config.rslora, "generator": generator}
        return cls(module, self.rank, self.alpha, **options)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Plan:
    """What an injection does. `str(plan)` is a table.

    Args:
        config: with targets and head modules filled in.
        layers: the layers to adapt, in the model's order.
        heads: the modules trained in full.
        biases: the trained biases of the base, by name.
    """

    config: LoRAConfig
    layers: tuple[PlannedLayer, ...]
    heads: dict[str, nn.Module]
    biases: dict[str, nn.Parameter]

    def __str__(self) -> str:
        rows = list(self._rows())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        cells = ((f"{cell:{n}}" for cell, n in zip(row, widths, strict=True)) for row in rows)
        return "\n".join([*("  ".join(row).rstrip() for row in cells), *self._totals()])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "module", "type", "in -> out", "rank", "alpha", "parameters"
        for layer in self.layers:
            shape = "{} -> {}".format(*feature_counts(layer.module))
            cells = (type(layer.module).__name__, shape, str(layer.rank), f"{layer.alpha:g}")
            yield layer.name, *cells, f"{layer.parameters:,}"

    def _totals(self) -> Iterator[str]:
        total = sum(layer.parameters for layer in self.layers)
        adapted = f"{len(self.layers)} layers, {self.config.variant}, init {self.config.init}"
        yield f"{adapted}: {total:,} parameters"
        for name, head in self.heads.items():
            yield f"head {name}, trained in full: {_entries(head.parameters()):,} parameters"
        if self.biases:
            entries = _entries(self.biases.values())
            yield f"{len(self.biases)} biases of the base: {entries:,} parameters"


def _entries(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def dry_run(model: nn.Module, config: LoRAConfig) -> Plan:
    """Return the plan of `inject(model, config)`. The model is not changed.

    Raises:
        TargetError: a name, pattern or layer number that matches nothing.
        ConfigError: a rank above a layer's, a tied weight, or settings that do not fit the model.
    """
    model = unwrapped(model)
    config = resolve(model, config)
    heads = find_heads(model, config.head_modules or [])
    targets = _targets(model, config)
    layers = tuple(_planned(name, module, config) for name, module in targets.items())
    for layer in layers:
        check_rank(layer.name, layer.module, layer.rank, config.init)
    for name in (*targets, *heads):
        check_untied(model, name, heads)
    _check_patterns(config, list(targets))
    return Plan(config, layers, heads, _biases(model, config, list(targets)))


def _planned(name: str, module: nn.Module, config: LoRAConfig) -> PlannedLayer:
    return PlannedLayer(name, module, config, rank_of(config, name), alpha_of(config, name))


def resolve(model: nn.Module, config: LoRAConfig) -> LoRAConfig:
    """Return the config with this model's targets and heads in place of None and `all-linear`."""
    from ..model.families import default_heads  # the table, where nothing is named

    heads = default_heads(model) if config.head_modules is None else list(config.head_modules)
    targets = list(config.targets or default_targets(model))
    config = replace(config, targets=targets, head_modules=heads)
    if targets == [ALL_LINEAR]:
        config = replace(config, targets=list(_targets(model, config)))
    return config


def _targets(model: nn.Module, config: LoRAConfig) -> dict[str, nn.Module]:
    return find_targets(
        model,
        config.targets or [],
        variant=config.variant,
        heads=config.head_modules or [],
        exclude=config.exclude or [],
        layers=config.layers,
    )


def _check_patterns(config: LoRAConfig, names: list[str]) -> None:
    from .expressions import matches_end

    keys = [("rank_pattern", key) for key in config.rank_pattern]
    keys += [("alpha_pattern", key) for key in config.alpha_pattern]
    for where, key in keys:
        if not any(matches_end(key, name) for name in names):
            raise no_match(f"{key!r} fits no adapted module", key, names, where=where)


def _biases(model: nn.Module, config: LoRAConfig, targets: list[str]) -> dict[str, nn.Parameter]:
    if config.bias == "none":
        return {}
    heads = tuple(f"{head}." for head in config.head_modules or [])
    biases = {}
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        chosen = config.bias == "all" or owner in targets
        if kind == "bias" and chosen and not name.startswith(heads):
            biases[name] = parameter
    if not biases:
        raise ConfigError("there is no bias to train", where="--bias", remedy="use --bias none")
    for name, bias in biases.items():
        if bias.dtype in (torch.float16, torch.bfloat16):
            fault = f"{name} is {bias.dtype}, in which small steps are lost"
            raise ConfigError(fault, where="--bias", expected="float32")
    return biases
