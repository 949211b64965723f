"""An adapter folder: adapter_model.safetensors and adapter_config.json as PEFT writes them, and provenance.json beside them.

Writing is all or nothing. Reading is strict: a tensor that is missing, unexpected, misshapen or not finite, a file that is
not the one that was written, or a base with other weights is one error that lists everything wrong, and the model stays
as it was.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..adapter.inject import inject, remove_adapter
from ..adapter.quantize import FULL, base_precision
from ..adapter.state import adapter_layers, adapter_state
from ..errors import AdapterFileError, BaseMismatchError, LoraScratchError
from ..layers import NoRandomNumbers, stores_in_out
from ..runtime.atomic import new_folder, write_bytes, write_json, write_text
from ..runtime.paths import typed_path
from .fingerprint import Fingerprint, differing, file_sha256, fingerprint
from .peft_format import (
    IN_PEFT,
    PREFIX,
    adapter_file_tensors,
    from_peft_config,
    heads_in,
    is_lora,
    to_peft_config,
    without_wrapper_copies,
)
from .provenance import FORMAT, differing_settings, problems_in, sealed, settings_by_module

WEIGHTS, CONFIG, PROVENANCE, CARD = "adapter_model.safetensors", "adapter_config.json", "provenance.json", "README.md"


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base_model: str = "",
    base: Fingerprint | None = None,
    card: str = "",
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the adapter of `model` to `folder`, whole or not at all; a folder that is there is replaced.

    Args:
        base_model: the name that others load the base by.
        base: the base's fingerprint if it is known already; hashed here otherwise.
        card: the text of the model card.
        notes: what else belongs to the adapter's history (labels, data hashes, versions, metrics), kept in provenance.json.

    Raises:
        LoraScratchError: a trainable tensor that the file would not hold, a folder with other files in it, or a place that
            can't be written to.
    """
    state = adapter_state(model)
    _check_place(Path(folder))
    tensors = _tensors_to_write(model)
    _check_complete(model, tensors)
    weights = weights_file(model)
    provenance = {
        **(notes or {}),
        "format": FORMAT,
        "adapter_sha256": file_sha256(weights),
        "base": {"name": base_model, "precision": base_precision(model), "tensors": base or fingerprint(model)},
        "config": asdict(state.config),
        "seed": state.seed,
        "modules": settings_by_module(adapter_layers(model), state.config),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
    }
    with new_folder(Path(folder)) as place:
        write_bytes(place / WEIGHTS, weights)
        own = state.config.variant not in IN_PEFT and not is_lora(adapter_layers(model).values())
        config = to_peft_config(state.config, base_model=base_model, fan_in_fan_out=_has_conv1d(model), own=own)
        write_text(place / CONFIG, json.dumps(config, indent=2, sort_keys=True))  # PEFT writes no newline at the end
        write_json(place / PROVENANCE, sealed(provenance))
        write_text(place / CARD, card or _plain_card(base_model, own=own))
    return Path(folder)


def weights_file(model: nn.Module) -> bytes:
    """The adapter's tensors as adapter_model.safetensors holds them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors_to_write(model).items()}
    return save(tensors, metadata={"format": "pt"})


def load_adapter(
    model: nn.Module, folder: str | Path, *, verify_base: bool = True, must_cover: Collection[str] = ()
) -> LoRAConfig:
    """Inject the adapter of `folder` (ours or PEFT's) into a plain model.

    Args:
        verify_base: compare the base weights with those that the adapter was trained on, where the folder says.
        must_cover: parameter names that have random values in the model (a fresh head): the file has to hold them.

    Returns:
        The adapter's settings.

    Raises:
        AdapterFileError: everything wrong with the folder; the model is as it was.
        BaseMismatchError: the adapter belongs to other base weights.
    """
    folder = Path(folder)
    tensors = without_wrapper_copies(read_tensors(folder))
    provenance = read_provenance(folder)
    config = _inject_saved(model, read_config(folder, tensors, provenance), provenance, where=folder)
    try:
        _check_tensors(model, tensors, provenance, must_cover=must_cover, where=folder / WEIGHTS)
        if verify_base and "base" in provenance:
            _check_base(model, provenance, where=folder)
    except AdapterFileError:
        remove_adapter(model)
        raise
    _copy(model, tensors)
    return config


def problems_on(model: nn.Module, folder: Path, *, must_cover: Collection[str] = ()) -> list[str]:
    """What does not fit between a folder and a plain model, all of it: tensors that are damaged, or do not fit, do not hide
    that the base is another. The model stays as it was.

    Raises:
        AdapterFileError: provenance.json or the settings can't be read, or not be applied to the model.
    """
    provenance, tensors, problems = read_provenance(folder), dict[str, Tensor](), list[str]()
    with suppress(AdapterFileError):  # which is a problem of the files
        tensors = without_wrapper_copies(_parse(_read(folder / WEIGHTS), folder / WEIGHTS))
    _inject_saved(model, read_config(folder, tensors, provenance), provenance, where=folder)
    try:
        if tensors:
            _check_tensors(model, tensors, provenance, must_cover=must_cover, where=folder)
    except AdapterFileError as error:
        problems += error.problems
    try:
        if "base" in provenance:
            _check_base(model, provenance, where=folder)
    except AdapterFileError as error:
        problems += error.problems
    remove_adapter(model)
    return problems


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter folder, all finite.

    Raises:
        AdapterFileError: no such file, not a whole safetensors file, not the bytes that were written, NaN or inf inside.
    """
    path = folder / WEIGHTS
    content = _read(path)
    recorded = read_provenance(folder).get("adapter_sha256")
    tensors = _parse(content, path)
    problems = [fault for name, tensor in tensors.items() if (fault := _fault(name, tensor))]
    if recorded is not None and recorded != file_sha256(content):
        problems.append(f"its SHA-256 is not the one in {PROVENANCE}")
    if problems:
        raise AdapterFileError(problems, where=str(path), remedy=_AGAIN)
    return tensors


def read_provenance(folder: Path) -> dict[str, Any]:
    """provenance.json, or nothing for a folder that another tool wrote.

    Raises:
        AdapterFileError: it is there and is not what `save_adapter` writes.
    """
    path = folder / PROVENANCE
    if not os.path.lexists(path):
        return {}
    fields = _read_json(path)
    problems = problems_in(fields)
    if problems:
        raise AdapterFileError(problems, where=str(path), remedy=_AGAIN)
    return fields


def read_config(folder: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> LoRAConfig:
    """The settings in adapter_config.json, with the head modules that our own provenance names or else the tensors show."""
    heads = provenance.get("config", {}).get("head_modules")
    fields = _read_json(folder / CONFIG)
    try:
        found = heads_in(tensors, bias=fields.get("bias", "none")) if heads is None else heads
        return from_peft_config(fields, head_modules=found)
    except AdapterFileError as error:
        raise AdapterFileError(error.problems, where=str(folder / CONFIG)) from error


def _parse(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise AdapterFileError([f"not a whole safetensors file ({error})"], where=str(path), remedy=_AGAIN) from error


def _inject_saved(model: nn.Module, config: LoRAConfig, provenance: Mapping[str, Any], *, where: Path) -> LoRAConfig:
    names = {name for name, _ in model.named_modules() if name}
    # tensors of a module that is not there are reported by name, as unexpected
    config = replace(config, head_modules=[head for head in config.head_modules or [] if head in names])
    # every tensor of ours is about to be loaded; what others draw and freeze need not be in the file
    drawing = NoRandomNumbers() if config.variant in IN_PEFT else nullcontext()
    try:
        with drawing:
            inject(model, config, seed=provenance.get("seed", 0))
    except LoraScratchError as error:
        raise AdapterFileError([f"does not fit this model: {error}"], where=str(where)) from error
    return config


def _fault(name: str, tensor: Tensor) -> str | None:
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.itemsize < 2):
        return f"{name} is {tensor.dtype}, expected float32, float16 or bfloat16"  # nor does torch know isfinite of float8
    return None if tensor.isfinite().all() else f"{name} holds NaN or inf"


_AGAIN = "copy the adapter folder again, or train it again"
_A_FOLDER = "an adapter folder as save_adapter or PEFT writes it"


def _tensors_to_write(model: nn.Module) -> dict[str, Tensor]:
    return adapter_file_tensors(model, _modules_to_write(model, adapter_state(model).config.head_modules or []))


def _modules_to_write(model: nn.Module, heads: list[str]) -> list[str]:
    """The head modules, and those that PEFT takes for head modules: it matches `pre_classifier` by its ending."""
    modules = dict(model.named_modules())
    inside = {f"{head}.{name}" for head in heads for name, _ in modules[head].named_modules() if name}
    return [name for name in modules if name in heads or (name not in inside and any(name.endswith(head) for head in heads))]


def _check_place(folder: Path) -> None:
    """What is replaced goes away with everything in it, so it has to be an adapter folder and nothing more."""
    typed_path(folder, flag="save_adapter", written=True)
    others = (
        sorted({path.name for path in folder.iterdir()} - {WEIGHTS, CONFIG, PROVENANCE, CARD}) if folder.is_dir() else []
    )
    if others:
        raise LoraScratchError(
            f"the folder holds other files: {', '.join(others[:5])}",
            where=str(folder),
            expected="an adapter folder to replace",
            remedy="choose a new or empty folder",
        )


def _check_complete(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    written = {tensor.data_ptr() for tensor in tensors.values()}
    # pissa and olora are written as the plain LoRA that they equal, worked out from these
    written |= {p.data_ptr() for layer in adapter_layers(model).values() for p in layer.adapter_tensors().values()}
    lost = [name for name, p in model.named_parameters() if p.requires_grad and p.data_ptr() not in written]
    if lost:
        raise LoraScratchError(
            f"trained but not part of the adapter: {', '.join(lost[:5])}",
            where="save_adapter",
            remedy="name it in head_modules; what an adapter layer of your own trains belongs in its adapter_tensors()",
        )


def _check_tensors(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
    *,
    must_cover: Collection[str],
    where: Path,
) -> None:
    config = adapter_state(model).config
    heads = _modules_to_write(model, config.head_modules or [])
    expected = adapter_file_tensors(model, heads)
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems += [
        f"{name} is {tensors[name].dtype}, expected a floating dtype"
        for name, tensor in expected.items()
        if name in tensors and tensor.is_floating_point() and not tensors[name].is_floating_point()
    ]
    if "modules" in provenance:
        problems += differing_settings(adapter_layers(model), config, provenance["modules"])
    problems += [f"{name} is random in the model and not in the file" for name in must_cover if PREFIX + name not in tensors]
    problems += [
        f"{name} is random in the model, and the file holds another value of it, which was not trained either"
        for name, key in ((name, PREFIX + name) for name in must_cover)
        if key in tensors and key in expected and key not in _trained_tensors(model)
        if not torch.equal(tensors[key].to(expected[key]), expected[key])
    ]
    if problems:
        raise AdapterFileError(problems, where=str(where), remedy="the adapter is for another model, or damaged")


def _check_base(model: nn.Module, provenance: Mapping[str, Any], *, where: Path) -> None:
    base = provenance["base"]
    different = differing(model, base.get("tensors", {}))
    trained_in, found = base.get("precision", FULL), base_precision(model)
    if different and trained_in != found:
        raise BaseMismatchError(
            [f"the adapter was trained on a base in precision {trained_in}, and this one is in {found}"],
            where=str(where),
            remedy=f"load a base in precision {trained_in} (quantize_base(model) makes nf4), or verify_base=False",
        )
    if different:
        raise BaseMismatchError(
            [f"the base model is not the one the adapter was trained on ({len(different)} differ, first {different[0]})"],
            where=str(where),
            expected=f"the weights of {base.get('name') or 'the original base'}",
            remedy="load that base (--model); verify_base=False, from Python, takes this one all the same",
        )


@torch.no_grad()
def _copy(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in _trained_tensors(model).items():
        tensor.copy_(tensors[name])


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What loading writes: not the frozen modules that are in the file for PEFT's sake, which are the base's own affair."""
    return adapter_file_tensors(model, adapter_state(model).config.head_modules or [])


def _has_conv1d(model: nn.Module) -> bool:
    return any(stores_in_out(layer.base) for layer in adapter_layers(model).values())


def _read(path: Path) -> bytes:
    """The bytes of a regular file: a pipe would be waited on for ever, a device read for ever."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        content = path.read_bytes() if regular else b""
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise AdapterFileError(
            [f"can't be read ({getattr(error, 'strerror', error)})"], where=str(path), expected=_A_FOLDER
        ) from error
    if not regular:
        raise AdapterFileError(["not a regular file"], where=str(path), expected=_A_FOLDER)
    return content


def _read_json(path: Path) -> dict[str, Any]:
    raw = _read(path)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError([f"not valid JSON ({error})"], where=str(path), remedy=_AGAIN) from error
    if not isinstance(content, dict):
        raise AdapterFileError(["not a JSON object"], where=str(path), remedy=_AGAIN)
    return content


def _plain_card(base_model: str, *, own: bool) -> str:
    reader = "with the package that registers its variant" if own else "with PEFT"
    return f"# LoRA adapter\n\nBase model: {base_model or 'not recorded'}. Written by lora-scratch; loads {reader}.\n"
