"""Products with a weight that was laid out once as oneDNN reads it, by operators of torch that its own compiler uses."""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.precision import multiplies_bfloat16


def pack_weight(weight: Tensor) -> Tensor:
    """W in the layout that oneDNN's kernels read: opaque but for its shape. Shape: (out, in)."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b with a W that was packed. Shape: x (..., in) -> (..., out)."""
    rows: Tensor = torch.ops.mkldnn._linear_pointwise(x.flatten(0, -2), weight, bias, "none", [], "")
    y: Tensor = torch.ops.aten._unsafe_view(
        rows, [*x.shape[:-1], -1]
    )  # no view to autograd: fast/fused_lora.py adds in place
    return y


def can_be_packed(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in `dtype` here. Its operators are private ones of torch, so they may be absent."""
    has_operators = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if weight.device.type != "cpu" or not torch._C._has_mkldnn or not has_operators:
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and multiplies_bfloat16())
