r"""The steps of one adapted layer on real numbers, in float64.

    LoRA    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ                          s = alpha / r
    DoRA    y = x Wᵀ + b + (g − 1) ⊙ x Wᵀ + g ⊙ s · (x Aᵀ) Bᵀ     g = m / ‖W + s · B A‖ by rows

The update is the part that is added to x Wᵀ + b. The weight of a Conv1D is shown as (out, in). An
embedding takes a column of A for every id. PiSSA and OLoRA are shown as the plain LoRA that their
file holds. For another kind of layer only the base and the sum are shown.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1; Liu et al. 2024, DoRA,
    arXiv:2402.09353, equation 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter.factors import weight_out_in
from ..layers import (
    AdapterLayer,
    DoRALinear,
    LoRAConv1D,
    LoRAEmbedding,
    LoRALinear,
    OffsetLoRALinear,
    stored_tensors,
)

Steps = dict[str, Tensor]
# exact types, because a subclass can compute something else
KNOWN = (LoRALinear, LoRAConv1D, LoRAEmbedding, OffsetLoRALinear, DoRALinear)


@dataclass(frozen=True)
class ForwardTrace:
    """The formula of a layer and every step of it.

    Args:
        scaling: s in words and as a number.
        shapes: of the tensors that the formula names, as far as the layer has them.
        steps: values (rows, ...) by symbol; the last three are update, base and output.
        unseen: what is not shown; empty if everything is.
    """

    formula: str
    scaling: str
    shapes: dict[str, tuple[int, ...]]
    steps: Steps
    unseen: str = ""

    @property
    def update(self) -> Tensor:
        """The update. Shape: (rows, out)."""
        return list(self.steps.values())[-3]

    @property
    def base(self) -> Tensor:
        """x Wᵀ + b. Shape: (rows, out)."""
        return list(self.steps.values())[-2]

    @property
    def output(self) -> Tensor:
        """The sum of both. Shape: (rows, out)."""
        return list(self.steps.values())[-1]

    def moved(self) -> Tensor:
        """Return ‖update‖ / ‖base‖ of every row, 0 without an update. Shape: (rows,)."""
        update, base = self.update.norm(dim=-1), self.base.norm(dim=-1)
        return torch.where(update > 0, update / base, 0.0)


@torch.no_grad()
def trace(layer: AdapterLayer, x: Tensor) -> ForwardTrace:
    """Compute every step of the layer in evaluation, enabled and not merged.

    Shape: x (..., in), or the ids (...) of an embedding; a step has a row for every position.
    """
    if type(layer) not in KNOWN:
        return _trace_unknown(layer, x)
    if isinstance(layer.base, nn.Embedding):
        return _trace_embedding(layer, x.reshape(-1))
    rows = x.reshape(-1, x.shape[-1]).double()
    return _trace_dora(layer, rows) if isinstance(layer, DoRALinear) else _trace_lora(layer, rows)


def scaling_in_words(layer: AdapterLayer) -> str:
    """Return `s = alpha / r = 16 / 8 = 2`, or with √r; the number alone for another scaling."""
    alpha, rank, scaling = layer.alpha, layer.rank, layer.scaling
    if math.isclose(scaling, alpha / rank):
        return f"s = alpha / r = {alpha:g} / {rank} = {scaling:g}"
    if math.isclose(scaling, alpha / math.sqrt(rank)):
        return f"s = alpha / √r = {alpha:g} / √{rank} = {scaling:g}"
    return f"s = {scaling:g}"


def _trace_lora(layer: AdapterLayer, x: Tensor) -> ForwardTrace:
    lora_A, lora_B = _factors(layer)
    low = x @ lora_A.T  # (rows, rank)
    wide = low @ lora_B.T  # (rows, out)
    update, base = layer.scaling * wide, x @ weight_out_in(layer, layer.weight).T + _bias(layer)
    values = {"x": x, "x Aᵀ": low, "(x Aᵀ) Bᵀ": wide, "s · (x Aᵀ) Bᵀ": update}
    values |= {_base_symbol(layer): base, "y": base + update}
    formula = f"y = {_base_symbol(layer)} + s · (x Aᵀ) Bᵀ"
    return _collect(layer, formula, values, A=lora_A, B=lora_B)


def _trace_embedding(layer: AdapterLayer, ids: Tensor) -> ForwardTrace:
    lora_A, lora_B = _factors(layer)
    low = F.embedding(ids, lora_A.T)  # (rows, rank)
    wide, base = low @ lora_B.T, F.embedding(ids, layer.weight.double())  # (rows, out)
    values = {"i": ids[:, None].double(), "A[:, i]ᵀ": low, "A[:, i]ᵀ Bᵀ": wide}
    update = layer.scaling * wide
    values |= {"s · A[:, i]ᵀ Bᵀ": update, "W[i]": base, "y": base + update}
    return _collect(layer, "y = W[i] + s · A[:, i]ᵀ Bᵀ", values, A=lora_A, B=lora_B)


def _trace_dora(layer: DoRALinear, x: Tensor) -> ForwardTrace:
    lora_A, lora_B = _factors(layer)
    magnitude, weight = layer.magnitude.double(), weight_out_in(layer, layer.weight)
    norm = (weight + layer.scaling * (lora_B @ lora_A)).norm(dim=1)  # (out,)
    gain = magnitude / norm.masked_fill(norm == 0, torch.inf)
    low, plain = x @ lora_A.T, x @ weight.T
    wide, base = low @ lora_B.T, plain + _bias(layer)
    turned, stretched = gain * layer.scaling * wide, (gain - 1) * plain
    values = {
        "x": x,
        "x Aᵀ": low,
        "(x Aᵀ) Bᵀ": wide,
        "s · (x Aᵀ) Bᵀ": layer.scaling * wide,
        "g = m / ‖W + s B A‖": gain.expand_as(wide),
        "g ⊙ s · (x Aᵀ) Bᵀ": turned,
        "(g − 1) ⊙ x Wᵀ": stretched,
        "the sum of these two": turned + stretched,
        _base_symbol(layer): base,
        "y": base + turned + stretched,
    }
    formula = f"y = {_base_symbol(layer)} + (g − 1) ⊙ x Wᵀ + g ⊙ s · (x Aᵀ) Bᵀ"
    return _collect(layer, formula, values, A=lora_A, B=lora_B, m=magnitude)


def _trace_unknown(layer: AdapterLayer, x: Tensor) -> ForwardTrace:
    base, output = layer.base(x).double(), layer(x).double()
    values = {"x": x.double(), "y − base(x)": output - base, "base(x)": base, "y": output}
    rows = {symbol: value.reshape(-1, value.shape[-1]) for symbol, value in values.items()}
    return _collect(layer, "y = base(x) + update", rows, **layer.adapter_tensors())


def _collect(layer: AdapterLayer, formula: str, steps: Steps, **tensors: Tensor) -> ForwardTrace:
    """Add the scaling, the shapes of W as it is stored, of b and `tensors`, and what is unseen."""
    named = {"W": layer.weight, "b": getattr(layer.base, "bias", None), **tensors}
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items() if tensor is not None}
    scaling, unseen = scaling_in_words(layer) if type(layer) in KNOWN else "", ""
    if isinstance(layer, OffsetLoRALinear):
        equal = "this is the plain LoRA of twice the rank that the layer equals"
        unseen = f"how A and B started: {equal}"
    if type(layer) not in KNOWN:
        kind = type(layer).__name__
        unseen = f"the steps inside a {kind}, a kind of layer that is not taken apart here"
    return ForwardTrace(formula, scaling, shapes, steps, unseen)


def _factors(layer: AdapterLayer) -> tuple[Tensor, Tensor]:
    """Return A (rank, in) and B (out, rank) as a file holds them, in float64."""
    lora_A, lora_B = list(stored_tensors(layer).values())[:2]
    return lora_A.double(), lora_B.double()


def _bias(layer: AdapterLayer) -> Tensor | float:
    return 0.0 if layer.bias is None else layer.bias.detach().double()


def _base_symbol(layer: AdapterLayer) -> str:
    return "x Wᵀ" if layer.bias is None else "x Wᵀ + b"
