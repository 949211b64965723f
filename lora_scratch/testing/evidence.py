"""What the laws share: layers away from their start, references in float64, and comparisons."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import LoraScratchError
from ..layers import AdapterLayer

# Bounds for max error / rms, against float64 on the same rounded inputs. The measured errors, at
# widths of 768 to 3072 and ranks of 8 to 64, are two to five times smaller: 2.3e-6, 3.8e-3, 2.8e-2.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}


class LawError(LoraScratchError, AssertionError):
    """A layer that breaks a law: `where` is the name of the law."""


@torch.no_grad()
def move_adapter(layer: nn.Module, *, size: float = 0.2, seed: int = 0) -> None:
    """Add seeded normal noise of standard deviation `size` to every adapter tensor in a module."""
    generator = torch.Generator().manual_seed(seed)
    for module in layer.modules():
        if isinstance(module, AdapterLayer):
            for tensor in module.adapter_tensors().values():
                tensor.add_(size * torch.randn(tensor.shape, generator=generator).to(tensor))


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Return max |actual − exact| / rms(exact) in float64; inf for another shape, NaN or inf."""
    if actual.shape != exact.shape:
        return float("inf")
    if not exact.numel():
        return 0.0
    exact = exact.detach().double()
    worst = (actual.detach().double() - exact).abs().max().item()
    size = exact.square().mean().sqrt().item()
    error = worst / size if size else worst
    return error if error == error else float("inf")  # NaN


def off_init(layer: AdapterLayer) -> AdapterLayer:
    """Move the adapter and switch to evaluation mode. At B = 0 many mistakes do not show."""
    move_adapter(layer)
    return layer.eval()


def in_dtype(layer: AdapterLayer, x: Tensor, dtype: torch.dtype) -> tuple[AdapterLayer, Tensor]:
    """Convert the base and x to `dtype`, and in float64 the adapter too, for exact formulas."""
    (layer if dtype is torch.float64 else layer.base).to(dtype)
    return layer, as_input(x, dtype)


def as_input(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in `dtype`. Token ids stay integers."""
    return x.to(dtype) if x.is_floating_point() else x


def base_output(layer: AdapterLayer, x: Tensor, weight: Tensor) -> Tensor:
    """Return the base's output with this weight in place of its own."""
    return torch.func.functional_call(layer.base, {"weight": weight}, (x,))  # type: ignore[no-any-return]


def reference_output(layer: AdapterLayer, x: Tensor) -> Tensor:
    """Return the expected output, computed in float64 from the same rounded tensors."""
    exact = copy.deepcopy(layer).double()
    return base_output(exact, as_input(x, torch.float64), exact.effective_weight())


def hold_constant(layer: AdapterLayer, method: str) -> None:
    """Replace a method of the layer by its present value."""
    value = getattr(layer, method)().detach()
    setattr(layer, method, lambda: value)


def snapshot(layer: AdapterLayer) -> dict[str, Tensor]:
    """Return a copy of the layer's `state_dict()`."""
    return {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}


def expect_unchanged(layer: AdapterLayer, before: dict[str, Tensor], after: str) -> None:
    """Raise LawError unless names, dtypes and bits of `state_dict()` equal the snapshot's."""
    now = layer.state_dict()
    if list(now) != list(before):
        raise LawError(f"state_dict() has {list(now)} after {after}", expected=f"{list(before)}")
    for name, tensor in before.items():
        if now[name].dtype != tensor.dtype or not torch.equal(_bits(now[name]), _bits(tensor)):
            raise LawError(f"{name} has changed after {after}", expected="every bit as before")


def expect_same_bits(actual: Tensor, exact: Tensor, subject: str, expected: str) -> None:
    """Raise LawError unless dtype and all values are equal."""
    if actual.dtype != exact.dtype or not torch.equal(actual, exact):
        error = relative_error(actual, exact)
        raise LawError(f"{subject} is off by {error:.1e} of its rms", expected=expected)


def expect_close(actual: Tensor, exact: Tensor, tolerance: float, subject: str, expected: str) -> None:
    """Raise LawError if the relative error is above `tolerance`."""
    error = relative_error(actual, exact)
    if error > tolerance:
        fault = f"{subject} is off by {error:.1e} of its rms"
        raise LawError(fault, expected=f"{expected}, to {tolerance:.0e}")


def expect_like(actual: Tensor, model: Tensor, subject: str) -> None:
    """Raise LawError unless shape and dtype are those of `model`."""
    if actual.shape != model.shape or actual.dtype != model.dtype:
        expected = f"{tuple(model.shape)} in {model.dtype}, as the base"
        raise LawError(f"{subject} is {tuple(actual.shape)} in {actual.dtype}", expected=expected)


def expect_refusal(call: Callable[[], None], subject: str) -> None:
    """Raise LawError unless the call raises RuntimeError."""
    try:
        call()
    except RuntimeError:
        return
    raise LawError(f"{subject} goes through", expected="a RuntimeError")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)  # NaN is not equal to itself, bits are
