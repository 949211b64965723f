"""How a law looks at a layer: away from its start, in a dtype, against float64; and what it says when something is off."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import LoraScratchError
from ..layers import AdapterLayer

# Max error / rms of the output, against float64 on the same rounded inputs: about twice to five times what widths of
# 768 to 3072 and ranks of 8 to 64 show (2.3e-6, 3.8e-3, 2.8e-2).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}


class LawError(LoraScratchError, AssertionError):
    """A layer that breaks a law: `where` is the law's name, `found` and `expected` what it says."""


@torch.no_grad()
def move_adapter(layer: nn.Module, *, size: float = 0.2, seed: int = 0) -> None:
    """Add seeded normal noise of standard deviation `size` to every adapter tensor of a layer, or of a whole model."""
    generator = torch.Generator().manual_seed(seed)
    for module in layer.modules():
        if isinstance(module, AdapterLayer):
            for tensor in module.adapter_tensors().values():
                tensor.add_(size * torch.randn(tensor.shape, generator=generator).to(tensor))


def relative_error(found: Tensor, exact: Tensor) -> float:
    """max |found − exact| / rms(exact), in float64; inf where shapes differ or a number is not finite."""
    if found.shape != exact.shape:
        return float("inf")
    if not exact.numel():
        return 0.0
    exact = exact.detach().double()
    worst = (found.detach().double() - exact).abs().max().item()
    size = exact.square().mean().sqrt().item()
    error = worst / size if size else worst
    return error if error == error else float("inf")  # NaN compares as nothing: make it the worst


def off_init(layer: AdapterLayer) -> AdapterLayer:
    """The layer in evaluation mode, its adapter moved: at its start, where B is zero, most mistakes multiply by zero."""
    move_adapter(layer)
    return layer.eval()


def in_dtype(layer: AdapterLayer, x: Tensor, dtype: torch.dtype) -> tuple[AdapterLayer, Tensor]:
    """The base in `dtype`, the adapter in float32 as always, and in float64 both: there the formula is exact."""
    (layer if dtype is torch.float64 else layer.base).to(dtype)
    return layer, as_input(x, dtype)


def as_input(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`; token ids stay what they are."""
    return x.to(dtype) if x.is_floating_point() else x


def base_output(layer: AdapterLayer, x: Tensor, weight: Tensor) -> Tensor:
    """What the base computes with this weight in place of its own."""
    return torch.func.functional_call(layer.base, {"weight": weight}, (x,))  # type: ignore[no-any-return]


def reference_output(layer: AdapterLayer, x: Tensor) -> Tensor:
    """What the layer should compute, in float64, of the same rounded tensors and input."""
    exact = copy.deepcopy(layer).double()
    return base_output(exact, as_input(x, torch.float64), exact.effective_weight())


def hold_constant(layer: AdapterLayer, method: str) -> None:
    """Let a method of this layer return from now on what it returns now."""
    value = getattr(layer, method)().detach()
    setattr(layer, method, lambda: value)


def snapshot(layer: AdapterLayer) -> dict[str, Tensor]:
    """A copy of the layer's `state_dict()`."""
    return {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}


@contextmanager
def same_random_state() -> Iterator[None]:
    """torch's global random state is afterwards what it was before: dropout draws from it."""
    with torch.random.fork_rng():
        yield


def expect_unchanged(layer: AdapterLayer, before: dict[str, Tensor], after: str) -> None:
    """A LawError where names, dtypes or bits of `state_dict()` are not those of the snapshot."""
    now = layer.state_dict()
    if list(now) != list(before):
        raise LawError(f"state_dict() has {list(now)} after {after}", expected=f"{list(before)}")
    for name, tensor in before.items():
        if now[name].dtype != tensor.dtype or not torch.equal(_bits(now[name]), _bits(tensor)):
            raise LawError(f"{name} has changed after {after}", expected="every bit as before")


def expect_same_bits(found: Tensor, exact: Tensor, what: str, expected: str) -> None:
    """A LawError where dtype or values differ at all."""
    if found.dtype != exact.dtype or not torch.equal(found, exact):
        raise LawError(f"{what} is off by {relative_error(found, exact):.1e} of its rms", expected=expected)


def expect_close(found: Tensor, exact: Tensor, tolerance: float, what: str, expected: str) -> None:
    """A LawError where the relative error is above `tolerance`."""
    error = relative_error(found, exact)
    if error > tolerance:
        raise LawError(f"{what} is off by {error:.1e} of its rms", expected=f"{expected}, to {tolerance:.0e}")


def expect_like(found: Tensor, model: Tensor, what: str) -> None:
    """A LawError where shape or dtype is not that of `model`."""
    if found.shape != model.shape or found.dtype != model.dtype:
        wanted = f"{tuple(model.shape)} in {model.dtype}, as the base"
        raise LawError(f"{what} is {tuple(found.shape)} in {found.dtype}", expected=wanted)


def expect_refusal(call: Callable[[], None], what: str) -> None:
    """A LawError where the call does not raise a RuntimeError."""
    try:
        call()
    except RuntimeError:
        return
    raise LawError(f"{what} goes through", expected="a RuntimeError")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)  # unlike values, bits compare NaN equal to itself
