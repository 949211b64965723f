r"""Frozen weights in the dtype that they are used in.

    autocast:  in every pass   y = x W.to(bfloat16)ᵀ        it keeps the copies of trained weights alone
    here:      once            W₁₆ = W.to(bfloat16)         in every pass   y = x W₁₆ᵀ

The same rounding of the same numbers, so the same bits. The layer's own `weight` stays where it is, in its own dtype:
fingerprints, merging, DoRA's norms and saving all see what they saw before. That costs 2 bytes a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.precision import Precision


@contextmanager
def narrow_weights(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside, frozen `nn.Linear`s under autocast use a copy of their weight in the compute dtype, made once."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and _qualifies(m, precision)]
    for layer in layers:
        layer.forward = _Narrow(layer, precision)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is in sight again


def _qualifies(module: nn.Linear, precision: Precision) -> bool:
    return (
        type(module) is nn.Linear  # a subclass may compute something else
        and "forward" not in vars(module)
        and precision.dtype is not torch.float32
        and module.weight.dtype is torch.float32
        and not any(p.requires_grad for p in module.parameters())
    )


class _Narrow:
    """What a frozen linear layer computes, with its weight and bias rounded beforehand."""

    def __init__(self, layer: nn.Linear, precision: Precision) -> None:
        self.weight, self.bias, self.device = layer.weight, layer.bias, precision.device.type
        self.narrow_weight = layer.weight.detach().to(precision.dtype)
        self.narrow_bias = None if layer.bias is None else layer.bias.detach().to(precision.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(self.device):
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.narrow_weight, self.narrow_bias)
