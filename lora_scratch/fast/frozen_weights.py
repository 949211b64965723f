"""Frozen weights are stored as the products read them: rounded to the compute dtype once, and packed once for oneDNN.

Autocast rounds a weight again in every forward pass, and torch lays it out anew, in the blocks that oneDNN's kernels read,
for every product. A weight that never changes needs either once. Rounded once it gives, bit for bit, what autocast gives;
packed it gives the same bits in bfloat16, and in float32 the sum in another order than MKL's (fast/onednn.py decides).
The parameters stay what they are: whatever reads `linear.weight` (a norm, a merge, a file) sees the unrounded numbers.

Worth of packing, 3,072 x 768 weights, two cores of an AMD EPYC: 5.3 -> 4.8 ms for 437 tokens in bfloat16 and 11.9 -> 9.5 in
float32; for 32 tokens 0.65 -> 0.45 and 1.6 -> 0.9. A bfloat16 training step takes 5 % less time (DistilBERT and MiniLM). The
price: the forward and the backward product read two layouts, so in training there are two copies where one unpacked one
would serve both (DistilBERT in bfloat16: 64 MiB more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.distributed import is_sharded
from ..runtime.precision import Precision
from . import onednn
from .packed_product import can_be_packed, multiply, pack_weight

Linear = Callable[[Tensor], Tensor]
# A training step with fewer rows is not worth two layouts: the last block's, which are first tokens alone (fast/packed.py).
# 11 MiB of DistilBERT's copies in bfloat16 and 50 in float32, for about 1 ms of a step.
FEW_ROWS = 64


@contextmanager
def fast_products(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside, products with frozen weights are as fast as they get in `precision`: in float32 by oneDNN where that is faster
    (fast/onednn.py), in half precision with weights rounded once, and packed wherever oneDNN multiplies."""
    onednn.limit_kernel_cache()
    with ExitStack() as levers:
        if _goes_through_onednn(model, precision):
            levers.enter_context(onednn.through_onednn())
        if stores_copies(model, precision):
            levers.enter_context(with_frozen_weights_in(model, precision.dtype))
        yield


def stores_copies(model: nn.Module, precision: Precision) -> bool:
    """Whether `fast_products` multiplies with copies of the frozen weights, not with themselves."""
    return precision.dtype is not torch.float32 or _goes_through_onednn(model, precision)


def _goes_through_onednn(model: nn.Module, precision: Precision) -> bool:
    return precision.dtype is torch.float32 and precision.device.type == "cpu" and onednn.serves(model)


def frozen_linears(model: nn.Module) -> list[nn.Linear]:
    """The layers that `with_frozen_weights_in` takes."""
    swapped = {part for module in model.modules() if getattr(module, "swaps_values", False) for part in module.modules()}
    return [module for module in model.modules() if _is_frozen_linear(module) and module not in swapped]


@contextmanager
def with_frozen_weights_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, frozen `nn.Linear` layers compute with a copy in `dtype`, packed where it can be. For use under autocast.

    Not those of a bank's heads: there every row brings weights of its own.

    The model must not be moved, and its frozen weights not be written to, inside.
    """
    linears = frozen_linears(model)
    for linear in linears:
        stored: Any = (PackedLinear if can_be_packed(linear.weight, dtype) else _rounded)(linear, dtype)
        linear.forward = stored  # type: ignore[method-assign]
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward  # the class's own shows again


def _rounded(linear: nn.Linear, dtype: torch.dtype) -> Linear:
    bias = None if linear.bias is None else linear.bias.detach().to(dtype)
    return partial(F.linear, weight=linear.weight.detach().to(dtype), bias=bias)


class PackedLinear:
    """y = x Wᵀ + b with W packed in `dtype` at first use, and ∂L/∂x = ∂L/∂y W with Wᵀ likewise for a gradient; unpacked
    where there are FEW_ROWS and a gradient is asked for."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        self.linear, self.dtype = linear, dtype
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    @cached_property
    def weight(self) -> Tensor:
        """W, in oneDNN's layout: opaque."""
        return pack_weight(self.linear.weight.detach().to(self.dtype))

    @cached_property
    def turned(self) -> Tensor:
        """Wᵀ, likewise."""
        return pack_weight(self.linear.weight.detach().to(self.dtype).T.contiguous())

    @cached_property
    def rounded(self) -> Tensor:
        """W as it lies, in `dtype`; in float32 the parameter itself."""
        return self.linear.weight.detach().to(self.dtype)

    @property
    def copies(self) -> list[Tensor]:
        """Return those of the three that exist and are copies."""
        made = [vars(self).get(name) for name in ("weight", "turned", "rounded")]
        own_dtype = self.dtype is self.linear.weight.dtype
        return [copy for copy in made if copy is not None and (copy.is_mkldnn or not own_dtype)]

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: x (..., in) -> (..., out) in `dtype`."""
        if torch.is_grad_enabled() and x.requires_grad and x.numel() <= FEW_ROWS * x.shape[-1]:
            return F.linear(x.to(self.dtype), self.rounded, self.bias)
        y: Tensor = _Product.apply(x.to(self.dtype), self)  # type: ignore[no-untyped-call]
        return y


class _Product(torch.autograd.Function):
    """The products of a `PackedLinear`; its weight has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedLinear) -> Tensor:
        ctx.packed = packed
        return multiply(x, packed.weight, packed.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return multiply(grads[0], ctx.packed.turned, None), None


def _is_frozen_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Exactly this class: a subclass may mean something else. One with a `forward` of its own is somebody else's already."""
    frozen = not any(p.requires_grad for p in module.parameters())
    whole = not any(is_sharded(p) for p in module.parameters())  # else a copy would have to be gathered first
    return type(module) is nn.Linear and frozen and whole and "forward" not in vars(module)
