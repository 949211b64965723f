r"""Dropout with cheap random bits: the law of `nn.Dropout`, from other random numbers.

    y = x · keep / q        keep is 1 with probability q, else 0;  q = 1 − round(2¹⁶ p) / 2¹⁶

On a CPU `nn.Dropout` draws a random number for every entry. Here 64 entries share nine random 64-bit
words of torch's global generator: each has a byte of its own, and eight share a second byte, which
decides only if the first is at the limit, one time in 256. With drop = 256 · limit + rest:

    entry i is dropped if byte_i < limit, or byte_i = limit and second < rest

That has probability drop / 2¹⁶. Two entries with one second byte are nearly independent: for
p = 0.1 their correlation is 4e-5 = r (1 − r) / 2¹⁶ / (p q), r = rest / 256. They lie an eighth of
the tensor apart. The scale is exactly 1 / q, so the mean of y is exactly x.

Worth: a mask of 640 x 768 entries takes 0.21 ms; with sixteen bits an entry 0.33, by `bernoulli_`
2.2. The nine bits save 2 % of a step of DistilBERT, and 3 to 4 % of MiniLM.

Source: Srivastava et al. 2014, Dropout, JMLR 15:1929-1958, section 10 (scaling while training).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forwards import has_own_forward, replaced_forwards

LEVELS = 2**16  # the values of the two bytes that decide on an entry
SHARING = 8  # entries with one second byte
LOWEST = -(2**63)  # `random_` from here, with no upper end, draws all 64 bits


def cheap_dropout(x: Tensor, p: float) -> Tensor:
    """Return x · keep / q for p in [0, 1]. On a GPU use torch's dropout, whose kernel is fused."""
    drop = round(p * LEVELS)
    if x.device.type != "cpu" or not 0 < drop < LEVELS:
        return F.dropout(x, p)
    keep, probability = keep_mask(x, p)
    return _Masked.apply(x, keep, 1 / probability)  # type: ignore[no-any-return,no-untyped-call]


def keep_mask(x: Tensor, p: float) -> tuple[Tensor | None, float]:
    """Return a mask in the shape of x, 0 with probability p, and the exact probability q of a 1.

    The mask is None if nothing is dropped. p is in [0, 1); a CPU rounds it to a multiple of 2⁻¹⁶ below 1.
    """
    if x.device.type != "cpu":
        return (_native_mask(x, p) if p else None), 1 - p
    drop = min(round(p * LEVELS), LEVELS - 1)  # q = 0 has no scale
    return (_keep(x.shape, drop) if drop else None), (LEVELS - drop) / LEVELS


def masked(x: Tensor, keep: Tensor | None) -> Tensor:
    """Return x ∘ keep in the dtype of x, not scaled; x itself without a mask."""
    if keep is None:
        return x
    if keep.dtype is torch.bool:  # a GPU's mask: there one kernel reads both dtypes
        return x * keep
    numbers = _numbers(x)
    return keep.to(numbers.dtype).mul_(numbers).view(x.dtype)


def mask_(x: Tensor, keep: Tensor | None) -> Tensor:
    """Multiply x by the mask in place, and return x; without a mask nothing changes."""
    if keep is None:
        return x
    if keep.dtype is torch.bool:
        return x.mul_(keep)
    numbers = _numbers(x)
    numbers.mul_(keep.to(numbers.dtype))
    return x


def _numbers(x: Tensor) -> Tensor:
    """Return x, or the bits of a half-precision x as integers: a product of these with 0 or 1 takes half the time."""
    return x.view(torch.int16) if x.dtype.itemsize == 2 else x


def _native_mask(x: Tensor, p: float) -> Tensor:
    """Return a bool mask: one kernel on a GPU, where random numbers and a comparison are four."""
    return torch.native_dropout(x, p, True)[1]


def _keep(shape: torch.Size, drop: int) -> Tensor:
    """Return an int8 mask, 0 with probability drop / 2¹⁶. A product with bool is 4 times slower."""
    count = shape.numel()
    groups = -(-count // SHARING)
    words = torch.empty(groups + -(-groups // SHARING), dtype=torch.int64).random_(LOWEST, None)
    first, second = words[:groups].view(torch.uint8), words[groups:].view(torch.uint8)[:groups]
    keep = _is_kept(first.view(SHARING, groups), second, drop)
    return keep.view(torch.int8).flatten()[:count].view(shape)


def _is_kept(first: Tensor, second: Tensor, drop: int) -> Tensor:
    """Return the decision of every entry by its bytes. Shape: first (8, G), second (G,) -> (8, G) bool."""
    rare = min(drop, LEVELS - drop)  # of both answers; so the limit and one more fit into a byte
    limit, rest = divmod(rare, 2**8)
    limits = (second < rest).view(torch.uint8).add_(limit)
    return first >= limits if rare == drop else first < limits


class _Masked(torch.autograd.Function):
    """x · keep · scale. The scale is a Python number: 1/0.9 rounded to bfloat16 is 0.2 % off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return masked(x, keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return masked(grads[0], keep).mul_(ctx.scale), None, None


def cheap_dropouts(model: nn.Module) -> AbstractContextManager[None]:
    """Compute every plain `nn.Dropout` of the model by `cheap_dropout` inside."""
    plain = [m for m in model.modules() if type(m) is nn.Dropout and not m.inplace]
    return replaced_forwards({m: partial(_forward, m) for m in plain if not has_own_forward(m)})


def _forward(dropout: nn.Dropout, x: Tensor) -> Tensor:
    return cheap_dropout(x, dropout.p) if dropout.training else x
