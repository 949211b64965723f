"""Frozen weights rounded once to the compute dtype, and packed once for oneDNN.

Autocast rounds a weight again in every forward pass, and torch copies it for every product to the
layout of oneDNN's kernels. A frozen weight needs this once. The bits are those of autocast, except
for packing in float32: its sums have another order than MKL's, so fast/onednn.py decides there. The
parameters themselves stay unrounded.

Worth of packing, for 437 tokens and 3,072 x 768 weights on two cores of an AMD EPYC: 4.8 ms instead
of 5.3 in bfloat16, 9.5 instead of 11.9 in float32; for 32 tokens 0.45 instead of 0.65, and 0.9
instead of 1.6. A bfloat16 training step takes 5 % less time (DistilBERT and MiniLM). The backward
pass needs a copy of its own (DistilBERT in bfloat16: 64 MiB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.distributed import is_sharded
from ..runtime.precision import Precision
from . import onednn
from .forwards import has_own_forward, replaced_forwards
from .onednn import can_be_packed, multiply, pack_weight

# The last block multiplies only first tokens (fast/packed.py). One unpacked copy for both passes
# saves 11 MiB of DistilBERT in bfloat16, 50 in float32, and costs about 1 ms a step.
FEW_ROWS = 64


@contextmanager
def fast_products(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Make products with frozen weights as fast as they get in `precision` inside."""
    onednn.limit_kernel_cache()
    with ExitStack() as levers:
        if _uses_onednn(model, precision):
            levers.enter_context(onednn.through_onednn())
        if stores_copies(model, precision):
            levers.enter_context(with_frozen_weights_in(model, precision.dtype))
        yield


def stores_copies(model: nn.Module, precision: Precision) -> bool:
    """Return whether `fast_products` multiplies with copies of the frozen weights."""
    return precision.dtype is not torch.float32 or _uses_onednn(model, precision)


def _uses_onednn(model: nn.Module, precision: Precision) -> bool:
    on_cpu = precision.device.type == "cpu"
    return precision.dtype is torch.float32 and on_cpu and onednn.helps(model)


def with_frozen_weights_in(model: nn.Module, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Let frozen `nn.Linear` layers compute with a copy in `dtype` inside, packed where possible.

    For use under autocast. Inside, do not move the model or write to its frozen weights. A bank's
    heads are left out: their weights differ from row to row.
    """
    swaps = [module for module in model.modules() if getattr(module, "swaps_values", False)]
    swapped = {part for module in swaps for part in module.modules()}
    linears = [m for m in model.modules() if _is_frozen_linear(m) and m not in swapped]
    return replaced_forwards({linear: _stored(linear, dtype) for linear in linears})


def _stored(linear: nn.Linear, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    if can_be_packed(linear.weight, dtype):
        return PackedLinear([linear], dtype)
    bias = None if linear.bias is None else linear.bias.detach().to(dtype)
    return partial(F.linear, weight=linear.weight.detach().to(dtype), bias=bias)


class PackedLinear:
    """y = x Wᵀ + b with W packed at its first use, and Wᵀ packed at its first use for a gradient.

    W is not packed for FEW_ROWS or fewer that need a gradient.

    Args:
        linears: layers of one input. Their outputs lie side by side in y.
    """

    def __init__(self, linears: Sequence[nn.Linear], dtype: torch.dtype) -> None:
        self.linears, self.dtype = linears, dtype
        self._wider: PackedLinear | None = None
        biases = [linear.bias.detach().to(dtype) for linear in linears if linear.bias is not None]
        self.bias = torch.cat(biases) if biases else None

    @cached_property
    def weight(self) -> Tensor:
        """W in oneDNN's layout."""
        return pack_weight(self._rounded())

    @cached_property
    def transposed(self) -> Tensor:
        """Wᵀ in oneDNN's layout."""
        return pack_weight(self._rounded().T.contiguous())

    @cached_property
    def zeros(self) -> Tensor | None:
        """A bias for gradients: so both passes share kernels, which take long to compile (fast/onednn.py)."""
        return None if self.bias is None else self.bias.new_zeros(self.linears[0].in_features)

    @cached_property
    def rounded(self) -> Tensor:
        """W in torch's layout; for one layer in float32 the parameter's own memory."""
        return self._rounded()

    def beside(self, others: Sequence[PackedLinear]) -> PackedLinear:
        """Return one product for these layers and those of `others`. It stays as long as this one, with its packed W."""
        linears = [linear for each in (self, *others) for linear in each.linears]
        if self._wider is None or self._wider.linears != linears:
            self._wider = PackedLinear(linears, self.dtype)
        return self._wider

    def _rounded(self) -> Tensor:
        weights = [linear.weight.detach().to(self.dtype) for linear in self.linears]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def __call__(self, x: Tensor) -> Tensor:
        """Return y in `dtype`. Shape: x (..., in) -> (..., out)."""
        if torch.is_grad_enabled() and x.requires_grad and x.numel() <= FEW_ROWS * x.shape[-1]:
            return F.linear(x.to(self.dtype), self.rounded, self.bias)
        y: Tensor = _Product.apply(x.to(self.dtype), self)  # type: ignore[no-untyped-call]
        return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedLinear) -> Tensor:
        ctx.packed = packed
        return multiply(x, packed.weight, packed.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return multiply(grads[0], ctx.packed.transposed, ctx.packed.zeros), None


def _is_frozen_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether this is exactly `nn.Linear`, frozen and whole, with the class's `forward`."""
    trained = any(p.requires_grad for p in module.parameters())
    sharded = any(is_sharded(p) for p in module.parameters())  # a copy would have to be gathered
    return type(module) is nn.Linear and not (trained or sharded or has_own_forward(module))
