"""From names to modules. A pattern matches whole dotted components: `lin` never means `q_lin`.

`re:EXPRESSION` matches whole names, and `all-linear` means every linear layer outside the head. A
pattern that matches nothing is an error with the nearest names and the layers there are.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ..errors import ConfigError, TargetError
from ..layers import OFFSET_METHODS, adapter_class, feature_counts
from .config import ALL_LINEAR, REGEX

Modules = dict[str, nn.Module]  # by name


def matches(name: str, pattern: str) -> bool:
    """Return whether the pattern is `name`, its last whole components or an expression for it."""
    if pattern.startswith(REGEX):
        from .expressions import matches_whole

        return matches_whole(pattern.removeprefix(REGEX), name)
    return name == pattern or name.endswith(f".{pattern}")


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Return whether `name` is one of these modules or inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def default_targets(model: nn.Module) -> list[str]:
    """Return the family's attention projections; of a family that has no line, `all-linear`.

    Raises:
        TargetError: a model that is of no family at all.
    """
    from ..model.families import family_name, family_of  # the table, where nothing is named

    if family := family_of(model):
        return list(family.targets)
    if family_name(model):
        return [ALL_LINEAR]
    remedy = f"name the modules to adapt; there are {describe_candidates(model, 'lora')}"
    fault = "the model is of no family, which has default targets"
    raise TargetError(fault, where="--targets", remedy=remedy)


def find_targets(
    model: nn.Module,
    patterns: Sequence[str],
    *,
    variant: str,
    heads: Sequence[str],
    exclude: Sequence[str] = (),
    layers: Sequence[int] | None = None,
) -> Modules:
    """Return the modules that the patterns name, in the model's order, outside heads and `exclude`.

    Raises:
        TargetError: a pattern, exclude or layer without a module, or one that can't be adapted.
    """
    named = {name: module for name, module in model.named_modules() if name}
    for pattern in exclude:
        _check_exclude(named, pattern)
    _check_layers(named, layers)
    candidates = {
        name: module
        for name, module in named.items()
        if not is_inside(name, heads)
        and not any(matches(name, pattern) for pattern in exclude)
        and (layers is None or layer_index(name) in layers)
    }
    if list(patterns) == [ALL_LINEAR]:
        patterns = _all_linear(model, candidates, variant)
    for pattern in patterns:
        _check_pattern(model, candidates, pattern, variant)
    targets = {n: m for n, m in candidates.items() if any(matches(n, p) for p in patterns)}
    _check_layers(targets, layers)
    return targets


def layer_index(name: str) -> int | None:
    """Return the number of the layer that a module belongs to, or None.

    It is the first component that is a number and has two components before it, as in PEFT's
    `layers_to_transform`; else the first or second component.
    """
    match = re.match(r".*?\.[^.]*\.(\d+)\.", name) or re.match(r"(?:[^.]*\.)?(\d+)\.", name)
    return int(match[1]) if match else None


def find_heads(model: nn.Module, names: Sequence[str]) -> Modules:
    """Return the head modules, by exact name. Raise TargetError for one without parameters."""
    named = ((name, module) for name, module in model.named_modules() if name)
    modules = {name: module for name, module in named if any(True for _ in module.parameters())}
    for name in names:
        if name not in modules:
            fault = f"no module with parameters is called {name!r} exactly"
            raise no_match(fault, name, list(modules), where="--head_modules")
    return {name: modules[name] for name in names}


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return the candidates that are most similar to `name`, best first."""
    return difflib.get_close_matches(name, list(dict.fromkeys(candidates)), n=count, cutoff=0.0)


def no_match(fault: str, name: str, known: list[str], *, where: str, more: str = "") -> TargetError:
    """Return the error for a name that matches no module, with the nearest known names."""
    remedy = f"nearest: {', '.join(nearest(name, known))}{more}"
    return TargetError(fault, where=where, available=known, remedy=remedy)


def describe_candidates(model: nn.Module, variant: str) -> str:
    """Return the modules that can be adapted, by last component: `q_lin (6 of 768x768), ...`."""
    layers: Counter[tuple[str, str]] = Counter()
    for name, module in model.named_modules():
        if adapter_class(variant, module) is not None:
            layers[_last(name), "x".join(map(str, module.weight.shape))] += 1
    return ", ".join(f"{name} ({n} of {shape})" for (name, shape), n in layers.items()) or "none"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _all_linear(model: nn.Module, candidates: Modules, variant: str) -> list[str]:
    """Return the linear layers, without a language model's output layer and tied weights."""
    from ..model.language import language_heads

    output = language_heads(model)
    names = [
        name
        for name, module in candidates.items()
        if adapter_class(variant, module) is not None
        and not isinstance(module, nn.Embedding)
        and not is_inside(name, output)
        and not shared_names(model, name)
    ]
    if not names:
        remedy = "see what --layers, counted from 0, and --exclude leave"
        raise TargetError("no linear layer is left to adapt", where="--targets", remedy=remedy)
    return names


def _check_pattern(model: nn.Module, candidates: Modules, pattern: str, variant: str) -> None:
    targets = {name: module for name, module in candidates.items() if matches(name, pattern)}
    if not targets:
        endings = [_last(name) for name, m in candidates.items() if adapter_class(variant, m)]
        more = f"; there are {describe_candidates(model, variant)}"
        fault = f"no module is called {pattern!r}"
        raise no_match(fault, pattern, endings, where="--targets", more=more)
    for name, module in targets.items():
        if adapter_class(variant, module) is None:
            fault = f"{name} is a {type(module).__name__}, which {variant} can't adapt"
            remedy = f"there are {describe_candidates(model, variant)}"
            raise TargetError(fault, where="--targets", remedy=remedy)


def _check_exclude(names: Iterable[str], pattern: str) -> None:
    if not any(matches(name, pattern) for name in names):
        fault = f"no module is called {pattern!r}"
        raise no_match(fault, pattern, [_last(name) for name in names], where="--exclude")


def _check_layers(targets: Iterable[str], layers: Sequence[int] | None) -> None:
    present = {layer_index(name) for name in targets}
    for index in layers or []:
        if index not in present:
            fault, remedy = f"no target is in layer {index}", "layers are counted from 0"
            raise TargetError(fault, where="--layers", remedy=remedy)


def check_rank(name: str, module: nn.Module, rank: int, init: str = "default") -> None:
    """Raise ConfigError if the rank, or the stored rank, is above the layer's smaller side."""
    in_features, out_features = feature_counts(module)
    largest = min(in_features, out_features)
    fault = f"rank {rank} on {name}, which is {in_features} -> {out_features}"
    if rank <= largest and init in OFFSET_METHODS:
        largest //= 2
        fault = f"rank {rank} on {name} with init {init}, which is stored as LoRA of twice the rank"
    if rank > largest:
        raise ConfigError(fault, where="--rank", expected=f"at most {largest}")


def shared_names(model: nn.Module, module_name: str) -> list[str]:
    """Return the parameters outside a module that share memory with one inside it (tied weights).

    A module that is registered in two places shares its parameters too.
    """
    inside: dict[tuple[torch.device, int], list[str]] = {}
    outside: dict[tuple[torch.device, int], list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # every tensor on the meta device has address 0
        memory = (parameter.device, parameter.data_ptr() or id(parameter))
        names = inside if name.startswith(f"{module_name}.") else outside
        names.setdefault(memory, []).append(name)
    return [name for memory in inside for name in outside.get(memory, [])]


def check_untied(model: nn.Module, name: str, heads: Iterable[str]) -> None:
    """Raise ConfigError if a parameter of this module is shared with a module outside the head."""
    if shared := [other for other in shared_names(model, name) if not is_inside(other, heads)]:
        fault = f"it shares its weight with {', '.join(shared)}: changing one would untie them"
        remedy = "leave it out of the targets and head modules, or untie the weights first"
        raise ConfigError(fault, where=name, remedy=remedy)
