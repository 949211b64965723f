"""The settings of an adapter: what to adapt and how strongly. Creating them checks them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..errors import ConfigError
from ..layers import METHODS, OFFSET_METHODS, adapter_variants
from ..runtime.options import flag

REGEX = "re:"  # a target or exclude that starts so is a regular expression for whole module names
ALL_LINEAR = "all-linear"
BIASES = ("none", "lora_only", "all")
LARGEST_ALPHA = 1e30  # a float32 holds it, divided by any share of a dropout and multiplied by any rank
BY_NAME = "by regular expression for the end of a module's name, as JSON"

Value = TypeVar("Value")


@dataclass
class LoRAConfig:
    """The settings of an adapter. Every field is also a flag of the commands.

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
    variant: str = flag("lora", "lora, dora (magnitude and direction apart), or a registered one")
    init: str = flag("default", f"where A and B start, always as the base: {', '.join(METHODS)}")
    exclude: list[str] | None = flag(None, "targets to leave out, in the same forms as targets")
    layers: list[int] | None = flag(None, "adapt only in layers with these numbers, counted from 0")
    bias: str = flag("none", "base biases to train: none, lora_only (of the adapted layers) or all")
    rank_pattern: dict[str, int] = flag({}, f"other ranks {BY_NAME}")
    alpha_pattern: dict[str, float] = flag({}, f"other alphas {BY_NAME}")

    def __post_init__(self) -> None:
        self._check_strength()
        self._check_method()
        self._check_selection()

    def _check_strength(self) -> None:
        ranks = {f"rank_pattern[{key!r}]": rank for key, rank in self.rank_pattern.items()}
        for where, rank in {"--rank": self.rank, **ranks}.items():
            whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
            _require(whole, where, rank, "a whole number from 1")
        alphas = {f"alpha_pattern[{key!r}]": alpha for key, alpha in self.alpha_pattern.items()}
        for where, alpha in {"--alpha": self.alpha, **alphas}.items():
            fits = _is_number(alpha) and 1 / LARGEST_ALPHA <= alpha <= LARGEST_ALPHA
            _require(fits, where, alpha, f"a number from {1 / LARGEST_ALPHA:g} to {LARGEST_ALPHA:g}")
        from .expressions import check_expression

        for where, patterns in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            for expression in patterns:
                check_expression(expression, where=where)
        _require(_is_number(self.dropout) and 0 <= self.dropout < 1, "--dropout", self.dropout, "a number from 0 to below 1")

    def _check_method(self) -> None:
        own = "for one of your own, `lora-scratch --import` the module that registers it"
        variants = f"one of {', '.join(adapter_variants())}; {own}"
        _require(self.variant in adapter_variants(), "--variant", self.variant, variants)
        _require(self.init in METHODS, "--init", self.init, f"one of {', '.join(METHODS)}")
        _require(self.bias in BIASES, "--bias", self.bias, f"one of {', '.join(BIASES)}")
        plain = self.init not in OFFSET_METHODS or self.variant == "lora"
        _require(plain, "--init", self.init, f"--variant lora: {self.init} is stored as plain LoRA")
        odd = [rank for rank in (self.rank, *self.rank_pattern.values()) if rank % 2]
        even = self.init != "orthogonal" or not odd
        _require(even, "--init", f"orthogonal at rank {odd[:1]}", "an even rank")

    def _check_selection(self) -> None:
        some = self.targets is None or bool(self.targets)
        _require(some, "--targets", self.targets, "at least one name")
        for where, names in (("--targets", self.targets or []), ("--exclude", self.exclude or [])):
            _require(isinstance(names, list), where, names, "a list of names")
            expressions = [name for name in names if name.startswith(REGEX)]
            alone = [name for name in names if name in expressions or name == ALL_LINEAR]
            _require(not alone or len(names) == 1, where, names, f"{alone[:1]} alone")
            for name in expressions:
                from .expressions import check_expression

                check_expression(name.removeprefix(REGEX), where=where)
        if self.layers is not None:
            numbers = bool(self.layers) and all(isinstance(i, int) and i >= 0 for i in self.layers)
            _require(numbers, "--layers", self.layers, "whole numbers from 0")
            expected = "no --layers with a re: target, which says itself which layers"
            no_regex = not (self.targets or [""])[0].startswith(REGEX)
            _require(no_regex, "--layers", self.layers, expected)


def rank_of(config: LoRAConfig, name: str) -> int:
    """Return the rank of this module: from `rank_pattern`, else `rank`."""
    return look_up(config.rank_pattern, name, config.rank)


def alpha_of(config: LoRAConfig, name: str) -> float:
    """Return the alpha of this module: from `alpha_pattern`, else `alpha`."""
    return float(look_up(config.alpha_pattern, name, config.alpha))


def look_up(patterns: Mapping[str, Value], name: str, default: Value) -> Value:
    """Return the value of the first key that fits the name, as PEFT does."""
    from .expressions import matches_end  # with a library that most adapters need not load

    return next((value for key, value in patterns.items() if matches_end(key, name)), default)


def _is_number(value: object) -> bool:
    """Return whether the value fits a float: a pattern's may be anything that JSON holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require(holds: bool, where: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"found {value!r}", where=where, expected=expected)
