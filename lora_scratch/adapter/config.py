"""What to adapt and how strongly: the settings of an adapter, validated before a model is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..errors import ConfigError
from ..layers import METHODS, OFFSET_METHODS, adapter_variants
from ..runtime.options import flag

REGEX = "re:"  # a target or exclude of this form is a regular expression over whole module names
ALL_LINEAR = "all-linear"
BIASES = ("none", "lora_only", "all")

Value = TypeVar("Value")


@dataclass
class LoRAConfig:
    """The settings of an adapter. The commands turn its fields into flags, so every field carries its help.

    Raises:
        ConfigError: a value out of bounds, with the bounds.
    """

    _argument_group_name = "adapter"  # the title of these flags in --help

    rank: int = flag(8, "width of the bottleneck: A is (rank, in), B is (out, rank)")
    alpha: float = flag(16.0, "the update is scaled by alpha / rank")
    dropout: float = flag(0.1, "dropout on the input of the update path, in [0, 1)")
    targets: list[str] | None = flag(
        None,
        "modules to adapt, by whole dotted components (q_lin, layer.0.attention.q_lin), or one "
        "re:EXPRESSION over whole module names, or all-linear; default: by model family",
    )
    rslora: bool = flag(False, "scale by alpha / sqrt(rank) instead of alpha / rank")
    head_modules: list[str] | None = flag(
        None, "modules trained in full, by exact name; default: every module outside the encoder"
    )
    variant: str = flag("lora", "lora, dora (magnitude and direction apart), or one that is registered")
    init: str = flag("default", f"where A and B start: {', '.join(METHODS)}; always from exactly the base function")
    exclude: list[str] | None = flag(None, "modules to leave out although a target names them; the same forms as targets")
    layers: list[int] | None = flag(None, "adapt only in layers with these numbers, counted from 0")
    bias: str = flag("none", "base biases to train: none, lora_only (of the adapted layers) or all")
    rank_pattern: dict[str, int] = flag({}, "another rank where the name ends in the key, a regular expression; as JSON")
    alpha_pattern: dict[str, float] = flag({}, "another alpha where the name ends in the key, a regular expression; as JSON")

    def __post_init__(self) -> None:
        _check_strength(self.rank, self.alpha, self.rank_pattern, self.alpha_pattern)
        _require(0 <= self.dropout < 1, "--dropout", self.dropout, "a number from 0 to below 1")
        self._check_method()
        self._check_selection()

    def _check_method(self) -> None:
        known = ", ".join(adapter_variants())
        own = "for one of your own, `lora-scratch --import` the module that registers it"
        _require(self.variant in adapter_variants(), "--variant", self.variant, f"one of {known}; {own}")
        _require(self.init in METHODS, "--init", self.init, f"one of {', '.join(METHODS)}")
        _require(self.bias in BIASES, "--bias", self.bias, f"one of {', '.join(BIASES)}")
        plain = self.init not in OFFSET_METHODS or self.variant == "lora"
        _require(plain, "--init", self.init, f"--variant lora: {self.init} is stored as plain LoRA")
        odd = [rank for rank in (self.rank, *self.rank_pattern.values()) if rank % 2 and self.init == "orthogonal"]
        _require(not odd, "--init", f"orthogonal at rank {odd[:1]}", "an even rank")

    def _check_selection(self) -> None:
        _require(self.targets is None or bool(self.targets), "--targets", self.targets, "at least one name")
        for flag, names in (("--targets", self.targets or []), ("--exclude", self.exclude or [])):
            _require(isinstance(names, list), flag, names, "a list of names")
            special = [name for name in names if name.startswith(REGEX) or name == ALL_LINEAR]
            _require(not special or len(names) == 1, flag, names, f"{special[:1]} alone")
            _check_expressions(flag, (name.removeprefix(REGEX) for name in names if name.startswith(REGEX)))
        numbers = self.layers is None or (bool(self.layers) and all(isinstance(i, int) and i >= 0 for i in self.layers))
        _require(numbers, "--layers", self.layers, "whole numbers from 0")
        with_regex = self.layers is not None and bool(self.targets) and (self.targets or [""])[0].startswith(REGEX)
        _require(not with_regex, "--layers", self.layers, "no --layers with a re: target, which says itself which layers")


def rank_of(config: LoRAConfig, name: str) -> int:
    """The rank of the module called `name`: that of the first key of `rank_pattern` that fits, else `rank`."""
    return look_up(config.rank_pattern, name, config.rank)


def alpha_of(config: LoRAConfig, name: str) -> float:
    """The alpha of the module called `name`: that of the first key of `alpha_pattern` that fits, else `alpha`."""
    return float(look_up(config.alpha_pattern, name, config.alpha))


def look_up(patterns: Mapping[str, Value], name: str, default: Value) -> Value:
    """The value of the first key that matches the end of the dotted name: PEFT's rule for its rank and alpha patterns."""
    return next((value for key, value in patterns.items() if fits(key, name)), default)


def fits(key: str, name: str) -> bool:
    """Whether the expression `key` matches the last whole components of `name`, or all of it."""
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _check_strength(rank: int, alpha: float, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> None:
    for flag, each_rank in (("--rank", rank), *((f"rank_pattern[{key!r}]", value) for key, value in ranks.items())):
        whole = isinstance(each_rank, int) and not isinstance(each_rank, bool) and each_rank >= 1
        _require(whole, flag, each_rank, "a whole number from 1")
    for flag, each_alpha in (("--alpha", alpha), *((f"alpha_pattern[{key!r}]", value) for key, value in alphas.items())):
        _require(0 < each_alpha < math.inf, flag, each_alpha, "a finite number above 0")
    _check_expressions("rank_pattern", ranks)
    _check_expressions("alpha_pattern", alphas)


def _check_expressions(where: str, expressions: Iterable[str]) -> None:
    for expression in expressions:
        try:
            re.compile(expression)
        except re.error as error:
            raise ConfigError(f"{expression!r} is no regular expression ({error})", where=where) from error


def _require(holds: bool, where: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"found {found!r}", where=where, expected=expected)
