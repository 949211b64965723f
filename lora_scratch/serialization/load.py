"""Load an adapter folder into a plain model, strictly.

A tensor that is missing, unexpected, misshapen or not finite, a file that is not the one that was
written, or a base with other weights is one error that lists everything wrong. The model then stays
as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..adapter.inject import inject, remove_adapter
from ..adapter.quantize import base_precision
from ..errors import AdapterFileError, BaseMismatchError, LoraScratchError
from ..layers import NoRandomNumbers
from ..model.wrappers import named_modules
from .adapter_folder import WEIGHTS, read_config, read_provenance, read_tensors, read_unchecked_tensors
from .contents import AdapterContents
from .fingerprint import differing
from .peft_format import IN_PEFT, PREFIX
from .provenance import Provenance, differing_settings


def load_adapter(
    model: nn.Module, folder: str | Path, *, verify_base: bool = True, must_cover: Collection[str] = ()
) -> LoRAConfig:
    """Inject the adapter of `folder` (ours or PEFT's) into a plain model. Return its settings.

    Args:
        verify_base: compare the base weights with those that the adapter was trained on, where the
            folder records them.
        must_cover: parameters that have random values in the model (a fresh head): the file has to
            hold them.

    Raises:
        AdapterFileError: everything wrong with the folder; the model is as it was.
        BaseMismatchError: the adapter belongs to other base weights.
    """
    folder = Path(folder)
    provenance = read_provenance(folder)
    tensors = read_tensors(folder, provenance, most_bytes=_most_bytes(model))
    config = _inject_saved(model, folder, tensors, provenance)
    contents = AdapterContents.of(model)
    try:
        _check_tensors(contents, tensors, provenance, must_cover=must_cover, where=folder / WEIGHTS)
        if verify_base:
            _check_base(model, provenance, where=folder)
    except AdapterFileError:
        remove_adapter(model)
        raise
    for name, tensor in contents.trained.items():
        tensor.copy_(tensors[name])
    return config


def _most_bytes(model: nn.Module) -> int:
    """Return what the tensors of an adapter of this model can have at most: factors of full rank, and the heads."""
    return 16 * sum(p.numel() for p in model.parameters()) + 2**24


def problems_on(model: nn.Module, folder: Path, *, must_cover: Collection[str] = ()) -> list[str]:
    """Return everything that does not fit between a folder and a plain model, which is not changed.

    Tensors and base are checked separately, so that one problem never hides the other. Faults in a
    file itself are left to `problems_in_folder`.

    Raises:
        AdapterFileError: provenance.json or the settings can't be read or applied to the model.
    """
    provenance, tensors, problems = read_provenance(folder), dict[str, Tensor](), list[str]()
    with suppress(AdapterFileError):
        tensors = read_unchecked_tensors(folder)
    _inject_saved(model, folder, tensors, provenance)
    contents = AdapterContents.of(model)
    check_tensors = partial(_check_tensors, contents, tensors, provenance, must_cover=must_cover, where=folder)
    check_base = partial(_check_base, model, provenance, where=folder)
    for check in (check_tensors, check_base) if tensors else (check_base,):
        try:
            check()
        except AdapterFileError as error:
            problems += error.problems
    remove_adapter(model)
    return problems


def _inject_saved(
    model: nn.Module, folder: Path, tensors: Mapping[str, Tensor], provenance: Provenance | None
) -> LoRAConfig:
    config = read_config(folder, tensors, provenance)
    names = {name for name in named_modules(model) if name}
    # The tensors of a module that is not in the model are reported by name, as unexpected.
    config = replace(config, head_modules=[head for head in config.head_modules or () if head in names])
    # All tensors of ours come from the file; a registered variant may keep a random one outside it.
    drawing = NoRandomNumbers() if config.variant in IN_PEFT else nullcontext()
    try:
        with drawing:
            inject(model, config, seed=provenance.seed if provenance else 0)
    except LoraScratchError as error:
        raise AdapterFileError([f"does not fit this model: {error}"], where=str(folder)) from error
    return config


def _check_tensors(
    contents: AdapterContents,
    tensors: Mapping[str, Tensor],
    provenance: Provenance | None,
    *,
    must_cover: Collection[str],
    where: Path,
) -> None:
    expected = contents.tensors
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in expected]
    pairs = {name: (tensors[name], tensor) for name, tensor in expected.items() if name in tensors}
    problems += [
        f"{name} has shape {tuple(stored.shape)}, expected {tuple(own.shape)}"
        for name, (stored, own) in pairs.items()
        if stored.shape != own.shape
    ]
    problems += [
        f"{name} is {stored.dtype}, expected a floating dtype"
        for name, (stored, own) in pairs.items()
        if own.is_floating_point() and not stored.is_floating_point()
    ]
    if provenance:
        problems += differing_settings(contents.settings, provenance.modules)
    problems += _random_values(contents, tensors, must_cover)
    if problems:
        raise AdapterFileError(problems, where=str(where), remedy="the adapter is for another model, or damaged")


def _random_values(contents: AdapterContents, tensors: Mapping[str, Tensor], must_cover: Collection[str]) -> list[str]:
    """Return one clause for every random parameter of the model that loading would leave random."""
    frozen, problems = contents.companions, []
    for name in must_cover:
        key = PREFIX + name
        if key not in tensors:
            problems.append(f"{name} is random in the model and not in the file")
        elif key in frozen and not torch.equal(tensors[key].to(frozen[key]), frozen[key]):
            other = "the file holds another value of it, which was not trained either"
            problems.append(f"{name} is random in the model, and {other}")
    return problems


def _check_base(model: nn.Module, provenance: Provenance | None, *, where: Path) -> None:
    different = differing(model, provenance.base.tensors) if provenance else []
    if not provenance or not different:
        return
    base, precision = provenance.base, base_precision(model)
    if base.precision != precision:
        raise BaseMismatchError(
            [f"the adapter was trained on a base in precision {base.precision}, and this one is in {precision}"],
            where=str(where),
            remedy=f"load a base in precision {base.precision} (quantize_base(model) makes nf4), or verify_base=False",
        )
    raise BaseMismatchError(
        [f"the base model is not the one the adapter was trained on ({len(different)} differ, first {different[0]})"],
        where=str(where),
        expected=f"the weights of {base.name or 'the original base'}",
        remedy="load that base (--model); verify_base=False, from Python, takes this one all the same",
    )
