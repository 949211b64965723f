"""Read the header of a safetensors file, and check it before anything is allocated for its tensors.

    8 bytes: N, little-endian | N bytes: JSON {name: {dtype, shape, data_offsets}} | the tensors

A header of a stranger may promise shapes that no machine can hold, or a file of holes.

Source: the format's own description, github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TypeGuard

LONGEST_HEADER = 10**8  # bytes, as in safetensors
MOST_DIMENSIONS = 16
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}


def header_fault(path: Path, *, most_bytes: int | None = None) -> str | None:
    """Return what is wrong with the header, or None.

    Args:
        most_bytes: the size that the tensors may have together.

    Raises:
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            return f"its header has {length:,} bytes, the file {size:,}"
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            return f"its header is not valid JSON ({error})"
    if not isinstance(header, dict):
        return "its header is no JSON object"
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    faults = (fault for name, entry in entries.items() if (fault := _fault(name, entry)))
    return next(faults, None) or _size_fault(entries, size - 8 - length, most_bytes)


def _fault(name: str, entry: Any) -> str | None:
    dtype, shape, offsets = (
        entry.get(key) if isinstance(entry, dict) else None for key in ("dtype", "shape", "data_offsets")
    )
    if not (isinstance(dtype, str) and dtype in ITEM_BITS):
        return f"{name} has the dtype {dtype!r}"
    if not (_is_sizes(shape) and len(shape) <= MOST_DIMENSIONS):
        return f"{name} has the shape {str(shape)[:60]}"
    if not (_is_sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        return f"{name} has the offsets {str(offsets)[:60]}"
    bits = math.prod(shape) * ITEM_BITS[dtype]
    return None if bits == 8 * (offsets[1] - offsets[0]) else f"{name} does not have the bytes of its shape {shape}"


def _size_fault(entries: dict[str, Any], size: int, most_bytes: int | None) -> str | None:
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if end != size:
        return f"its tensors have {end:,} bytes, the file {size:,} for them"
    if most_bytes is not None and size > most_bytes:
        return f"its tensors have {size:,} bytes, more than this model has use for ({most_bytes:,})"
    return None


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**48 for number in value)
