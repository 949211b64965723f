r"""A walk through one adapted layer, step by step on real numbers, in float64.

    LoRA    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ                                        s = alpha / r
    DoRA    y = x Wᵀ + b + (g − 1) ⊙ x Wᵀ + g ⊙ s · (x Aᵀ) Bᵀ                   g = m / ‖W + s · B A‖ by rows

What is added to x Wᵀ + b is the update, whichever the kind. A Conv1D is shown with its weight as (out, in); an embedding as
the linear layer that it is on one-hot ids, whose x Aᵀ is a column of A; PiSSA and OLoRA as the plain LoRA that their file
holds. A layer of another kind is asked for its base and its sum alone.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1; Liu et al. 2024, DoRA, arXiv:2402.09353, equation 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    AdapterLayer,
    DoRALinear,
    LoRAConv1D,
    LoRAEmbedding,
    LoRALinear,
    OffsetLoRALinear,
    stored_tensors,
    stores_in_out,
)

KNOWN = (
    LoRALinear,
    LoRAConv1D,
    LoRAEmbedding,
    OffsetLoRALinear,
    DoRALinear,
)  # exact types: a subclass may compute otherwise


@dataclass(frozen=True)
class Step:
    """One line of the computation: what it is called, and its value. Shape: (rows, ...), or (out,) for DoRA's gain."""

    symbol: str
    value: Tensor


@dataclass(frozen=True)
class ForwardTrace:
    """A layer's formula and every step of it.

    Args:
        formula: as one would write it down.
        scaling: what s is, in words and as a number.
        shapes: of W, b, A, B and what else the formula names, as far as the layer has them.
        steps: in the order of the computation; the last three are update, base and output.
        unseen: what the walk does not show; empty if it shows all.
    """

    formula: str
    scaling: str
    shapes: dict[str, tuple[int, ...]]
    steps: tuple[Step, ...]
    unseen: str = ""

    @property
    def update(self) -> Tensor:
        """What the adapter adds. Shape: (rows, out)."""
        return self.steps[-3].value

    @property
    def base(self) -> Tensor:
        """x Wᵀ + b. Shape: (rows, out)."""
        return self.steps[-2].value

    @property
    def output(self) -> Tensor:
        """The sum of both. Shape: (rows, out)."""
        return self.steps[-1].value

    def moved(self) -> Tensor:
        """‖update‖ / ‖base‖ of every row, infinite where only the base is zero. Shape: (rows,)."""
        update, base = self.update.norm(dim=-1), self.base.norm(dim=-1)
        return torch.where(update > 0, update / base, 0.0)


@torch.no_grad()
def trace(layer: AdapterLayer, x: Tensor) -> ForwardTrace:
    """Every step from x to the layer's output, as it is in evaluation, enabled and not merged.

    Shape: x (..., in), or ids (...) of an embedding; the steps have one row for each of the leading positions.
    """
    if type(layer) not in KNOWN:
        return _outer_walk(layer, x)
    if isinstance(layer.base, nn.Embedding):
        return _embedding_walk(layer, x.reshape(-1))
    rows = x.reshape(-1, x.shape[-1]).double()
    return _dora_walk(layer, rows) if isinstance(layer, DoRALinear) else _lora_walk(layer, rows)


def scaling_in_words(layer: AdapterLayer) -> str:
    """`s = alpha / r = 16 / 8 = 2`, or with √r, whichever the layer's scaling is; the number alone if it is neither."""
    alpha, rank, scaling = layer.alpha, layer.rank, layer.scaling
    if math.isclose(scaling, alpha / rank):
        return f"s = alpha / r = {alpha:g} / {rank} = {scaling:g}"
    if math.isclose(scaling, alpha / math.sqrt(rank)):
        return f"s = alpha / √r = {alpha:g} / √{rank} = {scaling:g}"
    return f"s = {scaling:g}"


def _lora_walk(layer: AdapterLayer, x: Tensor) -> ForwardTrace:
    lora_A, lora_B = _factors(layer)
    low = x @ lora_A.T  # (rows, rank)
    wide = low @ lora_B.T  # (rows, out)
    base = x @ _weight(layer).T + _bias(layer)
    inner = (Step("x", x), Step("x Aᵀ", low), Step("(x Aᵀ) Bᵀ", wide))
    ending = (Step("s · (x Aᵀ) Bᵀ", layer.scaling * wide), Step(_base_symbol(layer), base))
    steps = (*inner, *ending, Step("y", base + layer.scaling * wide))
    formula = f"y = {_base_symbol(layer)} + s · (x Aᵀ) Bᵀ"
    start = "how A and B started: this is the plain LoRA of twice the rank that the layer equals"
    unseen = start if isinstance(layer, OffsetLoRALinear) else ""
    return ForwardTrace(formula, scaling_in_words(layer), _shapes(layer, A=lora_A, B=lora_B), steps, unseen)


def _embedding_walk(layer: AdapterLayer, ids: Tensor) -> ForwardTrace:
    lora_A, lora_B = _factors(layer)
    low = F.embedding(ids, lora_A.T)  # (rows, rank)
    wide, base = low @ lora_B.T, F.embedding(ids, layer.weight.double())  # (rows, out)
    inner = (Step("i", ids[:, None].double()), Step("A[:, i]ᵀ", low), Step("A[:, i]ᵀ Bᵀ", wide))
    steps = (
        *inner,
        Step("s · A[:, i]ᵀ Bᵀ", layer.scaling * wide),
        Step("W[i]", base),
        Step("y", base + layer.scaling * wide),
    )
    return ForwardTrace("y = W[i] + s · A[:, i]ᵀ Bᵀ", scaling_in_words(layer), _shapes(layer, A=lora_A, B=lora_B), steps)


def _dora_walk(layer: DoRALinear, x: Tensor) -> ForwardTrace:
    lora_A, lora_B = _factors(layer)
    magnitude, weight = layer.magnitude.double(), _weight(layer)
    norm = (weight + layer.scaling * (lora_B @ lora_A)).norm(dim=1)  # (out,)
    gain = magnitude / norm.masked_fill(norm == 0, torch.inf)
    low, plain = x @ lora_A.T, x @ weight.T
    wide = low @ lora_B.T
    turned, stretched = gain * layer.scaling * wide, (gain - 1) * plain
    steps = (
        Step("x", x),
        Step("x Aᵀ", low),
        Step("(x Aᵀ) Bᵀ", wide),
        Step("s · (x Aᵀ) Bᵀ", layer.scaling * wide),
        Step("g = m / ‖W + s B A‖", gain.expand_as(wide)),
        Step("g ⊙ s · (x Aᵀ) Bᵀ", turned),
        Step("(g − 1) ⊙ x Wᵀ", stretched),
        Step("the sum of these two", turned + stretched),
        Step(_base_symbol(layer), plain + _bias(layer)),
        Step("y", plain + _bias(layer) + turned + stretched),
    )
    formula = f"y = {_base_symbol(layer)} + (g − 1) ⊙ x Wᵀ + g ⊙ s · (x Aᵀ) Bᵀ"
    return ForwardTrace(formula, scaling_in_words(layer), _shapes(layer, A=lora_A, B=lora_B, m=magnitude), steps)


def _outer_walk(layer: AdapterLayer, x: Tensor) -> ForwardTrace:
    base, output = layer.base(x).double(), layer(x).double()
    found = {"x": x.double(), "y − base(x)": output - base, "base(x)": base, "y": output}
    steps = tuple(Step(symbol, value.reshape(-1, value.shape[-1])) for symbol, value in found.items())
    unseen = f"the steps inside a {type(layer).__name__}, a kind of layer that is not taken apart here"
    return ForwardTrace("y = base(x) + update", "", _shapes(layer, **layer.adapter_tensors()), steps, unseen)


def _factors(layer: AdapterLayer) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) as a file holds them, in float64."""
    lora_A, lora_B = list(stored_tensors(layer).values())[:2]
    return lora_A.double(), lora_B.double()


def _weight(layer: AdapterLayer) -> Tensor:
    """W as (out, in), in float64."""
    weight = layer.weight.detach().double()
    return weight.T if stores_in_out(layer.base) else weight


def _bias(layer: AdapterLayer) -> Tensor | float:
    return 0.0 if layer.bias is None else layer.bias.detach().double()


def _base_symbol(layer: AdapterLayer) -> str:
    return "x Wᵀ" if layer.bias is None else "x Wᵀ + b"


def _shapes(layer: AdapterLayer, **tensors: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of W as it is stored, b if there is one, and these."""
    bias = {} if getattr(layer.base, "bias", None) is None else {"b": layer.bias}
    return {
        name: tuple(tensor.shape) for name, tensor in {"W": layer.weight, **bias, **tensors}.items() if tensor is not None
    }
