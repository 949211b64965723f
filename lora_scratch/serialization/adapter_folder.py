"""Read the files of an adapter folder. Every fault is an AdapterFileError that names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..adapter.config import LoRAConfig
from ..errors import AdapterFileError
from ..runtime.json_text import MOST_BYTES, parse_json
from ..runtime.tensor_files import header_fault
from .fingerprint import file_sha256
from .peft_format import from_peft_config, heads_in, without_wrapper_copies
from .provenance import REMEDY, Provenance

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROVENANCE, CARD = "provenance.json", "README.md"


def read_provenance(folder: Path) -> Provenance | None:
    """Read provenance.json. Return None for a folder that another tool wrote.

    Raises:
        AdapterFileError: it is there and is not what `save_adapter` writes.
    """
    path = folder / PROVENANCE
    if not os.path.lexists(path):  # a link to nothing is no absent file
        return None
    return Provenance.from_json(_read_json(path), where=str(path))


def read_tensors(folder: Path, provenance: Provenance | None, *, most_bytes: int | None = None) -> dict[str, Tensor]:
    """Read the tensors, all finite. `most_bytes` is the size that a model has use for.

    Raises:
        AdapterFileError: no such file, not a whole safetensors file, not the bytes that were
            written, NaN or inf inside.
    """
    path = folder / WEIGHTS
    content = _read_tensor_file(path, most_bytes)
    tensors = _parse(content, path)
    problems = [fault for name, tensor in tensors.items() if (fault := _fault(name, tensor))]
    if provenance and provenance.adapter_sha256 != file_sha256(content):
        problems.append(f"its SHA-256 is not the one in {PROVENANCE}")
    if problems:
        raise _damaged(path, *problems)
    return without_wrapper_copies(tensors)


def read_unchecked_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors whatever their values are. Raises AdapterFileError: not a whole file."""
    path = folder / WEIGHTS
    return without_wrapper_copies(_parse(_read_tensor_file(path, None), path))


def read_config(folder: Path, tensors: Mapping[str, Tensor], provenance: Provenance | None) -> LoRAConfig:
    """Read adapter_config.json. Provenance, or else the tensors, tell the head modules.

    Raises:
        AdapterFileError: a field of another kind of adapter, or a value out of bounds.
    """
    path = folder / CONFIG
    fields = _read_json(path)
    try:
        stored = heads_in(tensors, bias=fields.get("bias", "none"))
        heads = list(provenance.head_modules) if provenance else stored
        return from_peft_config(fields, head_modules=heads)
    except AdapterFileError as error:
        raise AdapterFileError(error.problems, where=str(path)) from error


def read_base_name(folder: Path) -> str:
    """Return the base that adapter_config.json names, or an empty text.

    Raises:
        AdapterFileError: no such file, or not JSON.
    """
    name = _read_json(folder / CONFIG).get("base_model_name_or_path")
    return name if isinstance(name, str) and "\0" not in name else ""


def _parse(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise _damaged(path, f"not a whole safetensors file ({error})") from error


def _fault(name: str, tensor: Tensor) -> str | None:
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.itemsize < 2):  # no isfinite
        return f"{name} is {tensor.dtype}, expected float32, float16 or bfloat16"
    return None if tensor.isfinite().all() else f"{name} holds NaN or inf"


def _read_tensor_file(path: Path, most_bytes: int | None) -> bytes:
    """Return the bytes, if the header fits them: before they are read."""

    def fault_of() -> str | None:
        """Return what is wrong with the header."""
        fault = header_fault(path, most_bytes=most_bytes)
        return f"not a whole safetensors file ({fault})" if fault else None

    return _read(path, fault_of)


def _read(path: Path, fault_of: Callable[[], str | None] = lambda: None) -> bytes:
    """Return the bytes of a regular file: reading a pipe or a device could take for ever."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        fault = fault_of() if regular else None
        content = path.read_bytes() if regular and not fault else b""
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", error)
        raise _unreadable(path, f"can't be read ({reason})") from error
    if not regular:
        raise _unreadable(path, "not a regular file")
    if fault:
        raise _damaged(path, fault)
    return content


def _read_json(path: Path) -> dict[str, Any]:
    text = _read(path, lambda: f"larger than {MOST_BYTES:,} bytes" if path.stat().st_size > MOST_BYTES else None)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _damaged(path, f"not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "not a JSON object")
    return content


def _unreadable(path: Path, problem: str) -> AdapterFileError:
    expected = "an adapter folder as save_adapter or PEFT writes it"
    return AdapterFileError([problem], where=str(path), expected=expected)


def _damaged(path: Path, *problems: str) -> AdapterFileError:
    return AdapterFileError(problems, where=str(path), remedy=REMEDY)
