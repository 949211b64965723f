r"""NF4, QLoRA's frozen base: a linear layer with four bits per weight.

A block of 64 weights is divided by its largest magnitude, and the results in [-1, 1] are rounded to
sixteen levels. Trained weights are close to normal, so the levels are quantiles of a normal
distribution: all of them are used about equally often.

    Ŵ = s · level[code]        code: 4 bits per weight, two in a byte;  s: the scale of the block

A float32 scale would add 32/64 = 0.5 bits per weight. So the scales are quantized too:

    s = mean + step · q        q: 8 bits per block;  step: float32 per 256 blocks;  mean: float32

That is 4 + 8/64 + 32/(64·256) = 4.127 bits per weight, 0.129 of float32. The paper has 8-bit floats
where this has even steps: scales are as likely above as below their mean, and the code is simpler.

Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3 and appendix E (levels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a step


def nf4_levels() -> Tensor:
    """Return the sixteen levels, ascending from -1 to 1, with an exact 0. Shape: (16,) float32.

    The positive levels are normal quantiles at 8 even steps from 1 - δ down to 1/2, the negative
    ones at 7 steps, all divided by the largest. δ = (1/32 + 1/30) / 2 is the paper's.
    """
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    steps = (torch.linspace(outermost, 0.5, n + 1, dtype=torch.float64)[:-1] for n in (8, 7))
    positive, negative = map(torch.special.ndtri, steps)
    levels = torch.cat([-negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)])
    return (levels / levels.max()).float()


class NF4Linear(nn.Module):
    """y = x Ŵᵀ + b, with Ŵ the four-bit version of a layer's weight. Nothing in it is trained.

    Args:
        linear: the layer to quantize. It is unchanged and shares its bias.

    Shape: codes (32·n,) uint8 and scales (n,) int8 for n = ⌈out·in / 64⌉ blocks; constants: mean
        and steps in bytes of float32, which `model.to(torch.bfloat16)` can't round; pairs (256,)
        int64: the two levels of every byte, not in `state_dict()`.

    Raises:
        ValueError: a weight that is not floating point, not finite, or empty.
    """

    adapted_like = nn.Linear  # layers/registry.py
    codes: Tensor
    scales: Tensor
    constants: Tensor
    pairs: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        if not weight.is_floating_point() or not weight.numel() or not weight.isfinite().all():
            facts = f"{weight.dtype} {tuple(weight.shape)}"
            raise ValueError(f"the weight to quantize is {facts}; expected finite numbers")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        blocks = _blocks(weight.float().flatten(), BLOCK)  # (n, 64)
        scales, steps, mean = _quantize_scales(blocks.abs().amax(1))
        self.register_buffer("scales", scales)
        self.register_buffer("constants", torch.cat([mean, steps]).view(torch.uint8))
        self.register_buffer("codes", _quantize(blocks, self._block_scales()))
        self.register_buffer("pairs", _level_pairs().to(weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x Ŵᵀ + b. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        y: Tensor = _Product.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(dtype)

    @property
    def weight(self) -> Tensor:
        """Ŵ, computed at every access. Shape: (out, in) float32."""
        return self.dequantize(torch.float32)

    @torch.no_grad()
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return Ŵ = s · level[code], computed in float32. Shape: (out, in)."""
        pairs = self.pairs.index_select(0, self.codes.int())
        levels = pairs.view(torch.float32).view(-1, BLOCK)  # (n, 64)
        flat = levels.mul_(self._block_scales()[:, None]).flatten()[: self.quantized_entries]
        return flat.view(self.out_features, self.in_features).to(dtype)

    @property
    def quantized_entries(self) -> int:
        """The number of quantized weights. They are not among the model's parameters."""
        return self.out_features * self.in_features

    @property
    def stored_bytes(self) -> int:
        """The size of codes, scales and constants in bytes."""
        return self.codes.nbytes + self.scales.nbytes + self.constants.nbytes

    def _block_scales(self) -> Tensor:
        """Return s = mean + step · q, at least 0. Shape: (n,) float32."""
        constants = self.constants.view(torch.float32)
        steps = constants[1:].repeat_interleave(SCALE_BLOCK)[: self.scales.numel()]
        return (constants[0] + self.scales.float() * steps).clamp_min(0)

    def extra_repr(self) -> str:
        """Return the text that `print(model)` shows for the layer."""
        sides = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sides}, bias={self.bias is not None}, 4 bits"


class _Product(torch.autograd.Function):
    """x Ŵᵀ, with a gradient for x alone. Ŵ is not kept: the backward pass computes it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return x @ layer.dequantize(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.dequantize(grads[0].dtype), None


def _level_pairs() -> Tensor:
    """Return the two levels of every byte as int64 (256,): seven times faster than one by one."""
    levels = nf4_levels()
    return torch.cartesian_prod(levels, levels).view(torch.int64).flatten()


def _blocks(flat: Tensor, size: int) -> Tensor:
    """Split into rows of `size`, padded with zeros. Shape: (n,) -> (⌈n / size⌉, size)."""
    return nn.functional.pad(flat, (0, -flat.numel() % size)).view(-1, size)


def _quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q (n,) int8, the steps (⌈n / 256⌉,) and the mean (1,). The error is up to step / 2."""
    mean = scales.mean(0, keepdim=True)
    blocks = _blocks(scales - mean, SCALE_BLOCK)
    steps = blocks.abs().amax(1) / 127
    codes = (blocks / steps.where(steps > 0, 1.0)[:, None]).round().to(torch.int8)
    return codes.flatten()[: scales.numel()].clone(), steps, mean


def _quantize(blocks: Tensor, scales: Tensor) -> Tensor:
    """Return the codes of the nearest levels, two in a byte. Shape: (n, 64) -> (n·32,)."""
    levels = nf4_levels().to(blocks.device)
    borders = (levels[1:] + levels[:-1]) / 2
    relative = blocks / scales.where(scales > 0, torch.inf)[:, None]
    codes = torch.bucketize(relative, borders).to(torch.uint8).flatten()
    return codes[0::2] * 16 + codes[1::2]
