r"""A frozen linear layer in four bits a weight, QLoRA's base: NF4 codes, and block scales that are quantized once more.

Weights of a trained layer are close to normal. Cut into blocks of 64 and divided by the largest magnitude of each block,
they fall into [-1, 1], and sixteen levels at the quantiles of a normal distribution are used about equally often:

    Ŵ = s · level[code]        code: 4 bits a weight, two in a byte;  s: the scale of the weight's block

A float32 scale would add 32/64 = 0.5 bits a weight. So the scales are quantized themselves, to 8 bits in blocks of 256,

    s = mean + step · q        q: 8 bits a block of 64;  step: float32 for 256 of these;  mean: one float32

which leaves 4 + 8/64 + 32/(64·256) = 4.127 bits of 32: 0.129 of the bytes. The paper has 8-bit floats where this has evenly
spaced steps: after the mean is taken out, scales are as likely above as below it, and one line explains the code.

A product multiplies with Ŵ, rounded to the compute dtype, made for the moment and made again in the backward pass: no dense
copy stays. The gradient goes through to x; codes have none. What the adapter learns, it learns about Ŵ.

Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3 (NormalFloat, double quantization) and appendix E (levels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a step


def nf4_levels() -> Tensor:
    """The sixteen levels, ascending from -1 to 1, with an exact 0. Shape: (16,) float32.

    Quantiles of the standard normal at eight even steps down from 1 - δ to 1/2 for the positive side and seven for the
    negative, so that both meet at 0, divided by the largest. δ = (1/32 + 1/30) / 2: the outermost levels stand in the middle
    of the outermost sixteenth of each side.
    """
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    half = [torch.special.ndtri(torch.linspace(outermost, 0.5, n + 1, dtype=torch.float64)[:-1]) for n in (8, 7)]
    levels = torch.cat([-half[1], torch.zeros(1, dtype=torch.float64), half[0].flip(0)])
    return (levels / levels.max()).float()


class NF4Linear(nn.Module):
    """y = x Ŵᵀ + b, with Ŵ the four-bit version of a layer's weight. Frozen; put an adapter layer around it to learn.

    Args:
        linear: the layer to quantize, which stays as it is. The bias is shared with it.

    Shape: n = ⌈out·in / 64⌉ blocks: codes (32·n,) uint8; scales (n,) int8; constants, the mean and a step for every 256
        scales, float32 seen as bytes, so that `model.to(torch.bfloat16)` can't round them. pairs (256,) int64, for every
        byte its two levels, as float32 bits: it moves with the layer, and no file holds it. x (..., in) -> (..., out).

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
            raise ValueError(f"the weight to quantize is {weight.dtype} {tuple(weight.shape)}; expected finite numbers")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        blocks = _blocks(weight.float().flatten(), BLOCK)  # (n, 64)
        scales, steps, mean = _quantize_scales(blocks.abs().amax(1))
        self.register_buffer("scales", scales)
        self.register_buffer("constants", torch.cat([mean, steps]).view(torch.uint8))
        self.register_buffer("codes", _quantize(blocks, self._block_scales()))
        self.register_buffer("pairs", _level_pairs().to(weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x Ŵᵀ + b. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        y: Tensor = _Product.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(dtype)

    @property
    def weight(self) -> Tensor:
        """Ŵ, made now, for whatever reads `layer.weight`. Shape: (out, in) float32."""
        return self.dequantize(torch.float32)

    @torch.no_grad()
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Ŵ = s · level[code], computed in float32. Shape: (out, in)."""
        levels = self.pairs.index_select(0, self.codes.int()).view(torch.float32).view(-1, BLOCK)  # (n, 64)
        flat = levels.mul_(self._block_scales()[:, None]).flatten()[: self.out_features * self.in_features]
        return flat.view(self.out_features, self.in_features).to(dtype)

    @property
    def quantized_entries(self) -> int:
        """How many numbers of the model the codes stand for: they are no parameters of torch."""
        return self.out_features * self.in_features

    @property
    def stored_bytes(self) -> int:
        """What the weight takes, in bytes, with all of its constants, but without `pairs`, the same for all weights."""
        return self.codes.nbytes + self.scales.nbytes + self.constants.nbytes

    def _block_scales(self) -> Tensor:
        """s = mean + step · q, at least 0. Shape: (n,) float32."""
        constants = self.constants.view(torch.float32)
        steps = constants[1:].repeat_interleave(SCALE_BLOCK)[: self.scales.numel()]
        return (constants[0] + self.scales.float() * steps).clamp_min(0)

    def extra_repr(self) -> str:
        """What `print(model)` says of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, 4 bits"


class _Product(torch.autograd.Function):
    """x Ŵᵀ, which keeps neither x nor Ŵ for the backward pass: the gradient of x is that of y times Ŵ, made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return x @ layer.dequantize(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.dequantize(grads[0].dtype), None


def _level_pairs() -> Tensor:
    """For every byte, two codes, its two levels as one number of 64 bits. Shape: (256,) int64.

    A look-up by pairs is seven times faster than one level by level.
    """
    levels = nf4_levels()
    return torch.cartesian_prod(levels, levels).view(torch.int64).flatten()


def _blocks(flat: Tensor, size: int) -> Tensor:
    """Rows of `size`, the last one filled up with zeros. Shape: (n,) -> (⌈n / size⌉, size)."""
    return torch.nn.functional.pad(flat, (0, -flat.numel() % size)).view(-1, size)


def _quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (n,) int8, a step (⌈n / 256⌉,) for every 256 of them and the mean (1,): mean + step · q is off by step/2 at most."""
    mean = scales.mean(0, keepdim=True)
    blocks = _blocks(scales - mean, SCALE_BLOCK)
    steps = blocks.abs().amax(1) / 127
    codes = (blocks / steps.where(steps > 0, 1.0)[:, None]).round().to(torch.int8)
    return codes.flatten()[: scales.numel()].clone(), steps, mean


def _quantize(blocks: Tensor, scales: Tensor) -> Tensor:
    """The nearest level for every weight, against the scale that it will be read back with. Shape: (n, 64) -> (n·32,)."""
    levels = nf4_levels().to(blocks.device)
    borders = (levels[1:] + levels[:-1]) / 2
    relative = blocks / scales.where(scales > 0, torch.inf)[:, None]
    codes = torch.bucketize(relative, borders).to(torch.uint8).flatten()
    return codes[0::2] * 16 + codes[1::2]
