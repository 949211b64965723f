r"""LoRA's update as one node of the autograd graph: added into the base's output, x kept once, its dropped copy made again.

    y += (s/q) · ((x ∘ keep) Aᵀ) Bᵀ          q: probability of keeping;  keep: 0 or 1 for every entry, a mask for each layer

and, with G = ∂L/∂y and g = (s/q) · G B,

    ∂L/∂A = gᵀ (x ∘ keep)      ∂L/∂B = (s/q) · Gᵀ ((x ∘ keep) Aᵀ)      ∂L/∂x = (g A) ∘ keep

`LoRALinear.forward` is the same formula step by step, and every step passes over all tokens: it scales the dropped input,
scales the update, adds it, and keeps a dropped copy of x for each of q, k and v. Here scaling is part of the products, and
q, k and v, which read the same x, share one copy of it in the compute dtype, cast once. The masks stay independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.lora import LoRALinear
from .dropout import keep_mask, masked


@contextmanager
def fused_updates(model: nn.Module) -> Iterator[None]:
    """Inside, every plain `LoRALinear` computes its update in one node; afterwards as before."""
    layers = [m for m in model.modules() if type(m) is LoRALinear and "forward" not in vars(m)]
    cast = _LastCast()
    for layer in layers:
        layer.forward = partial(_forward, layer, cast)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def _forward(layer: LoRALinear, cast: _LastCast, x: Tensor) -> Tensor:
    if not layer.enabled or layer.merged or not isinstance(layer.dropout, nn.Dropout):
        return LoRALinear.forward(layer, x)
    x = cast(x)
    y = _base_rows(layer.base, x)  # (N, out)
    keep, probability = keep_mask(x, layer.dropout.p) if layer.training else (None, 1.0)
    scaling = layer.scaling / probability
    added: Tensor = _AddUpdate.apply(y, x, layer.lora_A.to(x.dtype), layer.lora_B.to(x.dtype), keep, scaling)  # type: ignore[no-untyped-call]
    tokens: Tensor = torch.ops.aten._unsafe_view(added, [*x.shape[:-1], y.shape[-1]])  # (..., out), no view to autograd
    return tokens


def _base_rows(base: nn.Module, x: Tensor) -> Tensor:
    """The base's output, token by token, as a tensor that may be written to. Shape: x (..., in) -> (N, out).

    From a bias and an x of three axes `F.linear` makes a view of its product. Autograd answers a write to a view with
    copies of the whole (`CopySlices`), five passes over all tokens; a product of rows is no view.
    """
    y: Tensor = base(_rows(x))
    return y.clone() if y._is_view() else y


class _LastCast:
    """x in the compute dtype, cast once for all layers that are given the same x, one after another."""

    def __init__(self) -> None:
        self._x: Tensor | None = None
        self._found = torch.empty(0)
        self._made: tuple[object, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if dtype is x.dtype or x.is_inference():  # the latter has no count of the writes to it
            return x.to(dtype)
        made = (dtype, x._version, torch.is_grad_enabled())
        if self._x is not x or self._made != made:
            self._x, self._found, self._made = x, x.to(dtype), made
        return self._found


class _AddUpdate(torch.autograd.Function):
    """The formulas at the head of the file; y (N, out) is changed in place. x (..., in) is seen as rows, (N, in)."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, lora_A: Tensor, lora_B: Tensor, keep: Tensor | None, scaling: float
    ) -> Tensor:
        low = _rows(masked(x, keep)) @ lora_A.T  # (N, rank)
        y.addmm_(low, lora_B.T, alpha=scaling)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, lora_A, lora_B, low, keep)
        ctx.scaling = scaling
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, lora_A, lora_B, low, keep = ctx.saved_tensors
        (grad,) = grads  # (N, out)
        grad_low = (grad @ lora_B).mul_(ctx.scaling)  # (N, rank)
        grad_B = (low.T @ grad).mul_(ctx.scaling).T  # the tall matrix on the right: 1.6 times as fast as gradᵀ low
        grad_x = _grad_x(grad_low, x, lora_A, keep) if ctx.needs_input_grad[1] else None
        return grad, grad_x, grad_low.T @ _rows(masked(x, keep)), grad_B, None, None


def low_rank(layer: LoRALinear, x: Tensor) -> Tensor:
    """The inner half of the update alone, ((x ∘ keep) Aᵀ) / q, kept and dropped as above. Shape: x (N, in) -> (N, rank)."""
    keep, probability = keep_mask(x, layer.dropout.p) if layer.training else (None, 1.0)
    low: Tensor = _Low.apply(x, layer.lora_A.to(x.dtype), keep, 1 / probability)  # type: ignore[no-untyped-call]
    return low


class _Low(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_A: Tensor, keep: Tensor | None, scale: float) -> Tensor:
        ctx.save_for_backward(x, lora_A, keep)
        ctx.scale = scale
        return (masked(x, keep) @ lora_A.T).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, lora_A, keep = ctx.saved_tensors
        grad_low = grads[0] * ctx.scale
        grad_x = _grad_x(grad_low, x, lora_A, keep) if ctx.needs_input_grad[0] else None
        return grad_x, grad_low.T @ masked(x, keep), None, None


def _grad_x(grad_low: Tensor, x: Tensor, lora_A: Tensor, keep: Tensor | None) -> Tensor:
    grad_x = (grad_low @ lora_A).view_as(x)
    return grad_x if keep is None else grad_x.mul_(keep)


def _rows(tokens: Tensor) -> Tensor:
    return tokens.reshape(-1, tokens.shape[-1])
