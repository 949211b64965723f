"""From names to modules. A pattern matches whole dotted components at the end of a name: `lin` never means `q_lin`.

`re:EXPRESSION` matches whole names instead, and `all-linear` stands for every linear layer outside the head. Every pattern
has to match. One that does not is an error that lists the nearest names and what there is to adapt.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ..errors import ConfigError, TargetError
from ..layers import adapter_class
from ..model.families import family_name, family_of
from .config import ALL_LINEAR, REGEX


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the last whole components of the dotted `name`, or all of it; or its expression all of `name`."""
    if pattern.startswith(REGEX):
        return re.fullmatch(pattern.removeprefix(REGEX), name) is not None
    return name == pattern or name.endswith(f".{pattern}")


def default_targets(model: nn.Module) -> list[str]:
    """The query, key and value projections of the model's family.

    Raises:
        TargetError: a family without a preset; its linear layers are listed.
    """
    family = family_of(model)
    if family is None:
        raise TargetError(
            f"no preset for model family {family_name(model)!r}",
            where="--targets",
            remedy=f"name the modules to adapt; there are {describe_candidates(model, 'lora')}",
        )
    return family.query_key_value


def find_targets(
    model: nn.Module,
    patterns: Sequence[str],
    *,
    variant: str,
    heads: Sequence[str],
    exclude: Sequence[str] = (),
    layers: Sequence[int] | None = None,
) -> dict[str, nn.Module]:
    """The modules that the patterns name, in the model's order; without head modules, `exclude` and other `layers`.

    Raises:
        TargetError: a pattern, exclude or layer that is left with nothing, or with something that `variant` can't adapt.
    """
    named = {name: module for name, module in model.named_modules() if name and not _inside(name, heads)}
    for pattern in exclude:
        _check_exclude(model, pattern)
    kept = {
        name: module
        for name, module in named.items()
        if not any(matches(name, pattern) for pattern in exclude) and (layers is None or layer_index(name) in layers)
    }
    if list(patterns) == [ALL_LINEAR]:
        patterns = _all_linear(model, kept, variant)
    for pattern in patterns:
        _check_pattern(model, kept, pattern, variant)
    found = {name: module for name, module in kept.items() if any(matches(name, pattern) for pattern in patterns)}
    _check_layers(found, layers)
    return found


def layer_index(name: str) -> int | None:
    """The number of the layer that a module belongs to: the first component that is a number and has two before it.

    That is where PEFT's `layers_to_transform` looks. A number nearer to the front counts if there is no other.
    """
    found = re.match(r".*?\.[^.]*\.(\d+)\.", name) or re.match(r"(?:[^.]*\.)?(\d+)\.", name)
    return int(found[1]) if found else None


def find_heads(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The head modules, by exact name.

    Raises:
        TargetError: a name that is no module, or a module without parameters.
    """
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules or not any(True for _ in modules[name].parameters()):
            with_parameters = [
                other for other, module in modules.items() if other and any(True for _ in module.parameters())
            ]
            raise TargetError(
                f"no module with parameters is called {name!r} exactly",
                where="--head_modules",
                available=with_parameters,
                remedy=f"nearest: {', '.join(nearest(name, with_parameters))}",
            )
    return {name: modules[name] for name in names}


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates that look most like `name`, best first."""
    return difflib.get_close_matches(name, list(dict.fromkeys(candidates)), n=count, cutoff=0.0)


def describe_candidates(model: nn.Module, variant: str) -> str:
    """What could be adapted, by last component: `q_lin (6 of 768x768), ...`."""
    layers: Counter[tuple[str, str]] = Counter()
    for name, module in model.named_modules():
        if adapter_class(variant, module) is not None:
            shape = "x".join(map(str, module.weight.shape))
            layers[name.rpartition(".")[2], shape] += 1
    return ", ".join(f"{name} ({count} of {shape})" for (name, shape), count in layers.items()) or "none"


def _all_linear(model: nn.Module, kept: dict[str, nn.Module], variant: str) -> list[str]:
    """The names of the linear layers; not of one whose weight is tied to another module, as a language model's output is."""
    linear = [
        name
        for name, module in kept.items()
        if adapter_class(variant, module) is not None and not isinstance(module, nn.Embedding)
    ]
    free = [name for name in linear if not shared_names(model, name)]
    if not free:
        raise TargetError(
            "no linear layer is left to adapt",
            where="--targets",
            remedy="see what --layers, counted from 0, and --exclude leave",
        )
    return free


def _check_pattern(model: nn.Module, kept: dict[str, nn.Module], pattern: str, variant: str) -> None:
    found = {name: module for name, module in kept.items() if matches(name, pattern)}
    if not found:
        endings = [name.rpartition(".")[2] for name, module in kept.items() if adapter_class(variant, module)]
        raise TargetError(
            f"no module is called {pattern!r}",
            where="--targets",
            available=endings,
            remedy=f"nearest: {', '.join(nearest(pattern, endings))}; there are {describe_candidates(model, variant)}",
        )
    for name, module in found.items():
        if adapter_class(variant, module) is None:
            raise TargetError(
                f"{name} is a {type(module).__name__}, which {variant} can't adapt",
                where="--targets",
                remedy=f"there are {describe_candidates(model, variant)}",
            )


def _check_exclude(model: nn.Module, pattern: str) -> None:
    names = [name for name, _ in model.named_modules() if name]
    if not any(matches(name, pattern) for name in names):
        endings = [name.rpartition(".")[2] for name in names]
        raise TargetError(
            f"no module is called {pattern!r}",
            where="--exclude",
            available=endings,
            remedy=f"nearest: {', '.join(nearest(pattern, endings))}",
        )


def _check_layers(found: Iterable[str], layers: Sequence[int] | None) -> None:
    present = {layer_index(name) for name in found}
    empty = [index for index in layers or [] if index not in present]
    if empty:
        raise TargetError(f"no target is in layer {empty[0]}", where="--layers", remedy="layers are counted from 0")


def _inside(name: str, roots: Sequence[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def check_rank(name: str, module: nn.Module, rank: int) -> None:
    """A rank above the smaller side of a layer adds parameters and no freedom.

    Raises:
        ConfigError: with the layer's shape.
    """
    in_features, out_features = features(module)
    widest = min(in_features, out_features)
    if rank > widest:
        raise ConfigError(
            f"rank {rank} on {name}, which is {in_features} -> {out_features}",
            where="--rank",
            expected=f"at most {widest}",
        )


def features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a layer: from its own attributes, or from a weight (in, out) as embeddings and Conv1D have."""
    for names in (("in_features", "out_features"), ("num_embeddings", "embedding_dim")):
        if all(hasattr(module, name) for name in names):
            return int(getattr(module, names[0])), int(getattr(module, names[1]))
    in_features, out_features = module.weight.shape  # type: ignore[misc]
    return int(in_features), int(out_features)


def shared_names(model: nn.Module, module_name: str) -> list[str]:
    """The parameters outside a module that have the memory of one inside it: the tied output layer of an embedding.

    A module that is itself registered in two places shows too.
    """
    inside: dict[tuple[torch.device, int], list[str]] = {}
    outside: dict[tuple[torch.device, int], list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # tensors on the meta device all stand at address 0
        place = (parameter.device, parameter.data_ptr() or id(parameter))
        (inside if name.startswith(f"{module_name}.") else outside).setdefault(place, []).append(name)
    return [name for place in inside for name in outside.get(place, [])]
