"""Let a head in float32 work in a model in bfloat16 or float16, without autocast.

`inject` trains heads in float32: small steps are lost in half precision, and GradScaler refuses
float16 gradients. The modules before and after such a head keep the base's dtype. So two hooks
convert its inputs to its own dtype, and its outputs to the base's. Under autocast torch does this
itself, and a head that was float32 already gets no hooks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..model.wrappers import named_modules

HALF = (torch.bfloat16, torch.float16)
HOOKS = "_head_dtype_hooks"  # the attribute of a head that keeps the handles of its hooks
BASE_DTYPE = "_base_dtype"  # an empty buffer with the dtype of the base, which model.to(dtype) changes too


def train_in_float32(head: nn.Module) -> None:
    """Make the head float32 and trainable. If it was in half precision, add the hooks."""
    half = [p.dtype for p in head.parameters() if p.dtype in HALF]
    device = next(head.parameters()).device
    head.float().requires_grad_(True)
    if half:
        head.register_buffer(BASE_DTYPE, torch.empty(0, dtype=half[0], device=device), persistent=False)
        before = head.register_forward_pre_hook(_convert_inputs, with_kwargs=True)
        setattr(head, HOOKS, (before, head.register_forward_hook(_convert_output)))


def restore_dtype(model: nn.Module) -> None:
    """Convert the heads that have hooks to the base's dtype, and remove the hooks."""
    for head in _with_hooks(model).values():
        dtype = head.get_buffer(BASE_DTYPE).dtype
        for handle in head.__dict__.pop(HOOKS):
            handle.remove()
        delattr(head, BASE_DTYPE)
        head.to(dtype)


def base_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Return the base's dtype for every tensor of a head that has hooks, by plain name."""
    return {
        f"{name}.{key}": head.get_buffer(BASE_DTYPE).dtype
        for name, head in _with_hooks(model).items()
        for key in head.state_dict(keep_vars=True)
    }


def _with_hooks(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in named_modules(model).items() if HOOKS in module.__dict__}


def _convert_inputs(head: nn.Module, args: Any, kwargs: Any) -> Any:
    own = next(p.dtype for p in head.parameters() if p.is_floating_point())
    return _in_dtype((args, kwargs), own)


def _convert_output(head: nn.Module, args: Any, output: Any) -> Any:
    return _in_dtype(output, head.get_buffer(BASE_DTYPE).dtype)


def _in_dtype(values: Any, dtype: torch.dtype) -> Any:
    """Return the values with floating tensors in this dtype, or unchanged under autocast."""

    def converted(value: Any) -> Any:
        """Return one value."""
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floating and not torch.is_autocast_enabled(value.device.type) else value

    return tree_map(converted, values)
