r"""Attention where only the first token of each row asks: no key or value is computed, their weights act on the query.

For the query q of a row and a head, the inputs x_j of the row's tokens, and the head's rows W_k, W_v of key and value:

    q · (W_k x_j + b_k) = (W_kᵀ q) · x_j + const.        Σ p_j (W_v x_j + b_v) = W_v (Σ p_j x_j) + b_v Σ p_j

The constant is the same for all tokens, so softmax takes it out. Two products with one vector a row stand in place of two
with one a token. LoRA's update s B A x_j is the same again, with A x_j (dropped as ever, fast/fused_lora.py) for x_j and s B
for W.

Worth: of a training step of DistilBERT 4 of 121 products of tokens x hidden by hidden x hidden, of prediction 2 of 62;
measured 1.4 to 3 % of a step in bfloat16, 2 in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import LoRALinear
from ..layers.lora import at_least_float32
from ..runtime.distributed import is_sharded
from .dropout import cheap_dropout
from .fused_lora import low_rank
from .packing import Packing, of_tokens, to_rows, to_tokens

Factors = list[tuple[Tensor, Tensor]]  # inputs of a row's tokens (B, T, in), and weights by head (heads, d, in)


def can_absorb(layer: nn.Module) -> bool:
    """Whether `layer` is what the formula takes it for: frozen and linear, with plain LoRA or none, and not watched."""
    base = layer.base if type(layer) is LoRALinear and isinstance(layer.dropout, nn.Dropout) else layer
    watched = any(module._forward_hooks or module._forward_pre_hooks for module in (layer, base))
    # a trained key's bias would have no gradient in place of 0
    frozen = not torch.is_grad_enabled() or not any(p.requires_grad for p in base.parameters())
    return type(base) is nn.Linear and frozen and not watched and not is_sharded(base.weight)


def first_token_attention(
    q: Tensor, x: Tensor, key: Any, value: Any, packing: Packing, *, scaling: float, dropout: float = 0.0
) -> Tensor:
    """softmax(scaling · q kᵀ) v with k = key(x) and v = value(x), as the head of the file has it.

    Shape: q (B·heads, d) of the first tokens, x (N, hidden) of all -> (B·heads, d) in the dtype of q. In between at least
        float32: the products are small, and half-precision ones would each be compiled anew for every width of a batch.

    Args:
        key, value: layers that `can_absorb`.
    """
    heads, d, x = packing.heads, q.shape[-1], x.to(q.dtype)
    with torch.autocast(x.device.type, enabled=False):
        whole = of_tokens(packing)
        rows = _Rows.apply(x, whole)  # type: ignore[no-untyped-call]
        query = at_least_float32(q).view(-1, heads, d).transpose(0, 1)
        keys, values = (_factors(layer, x, rows, whole, heads) for layer in (key, value))
        asked = [(torch.bmm(query, weight).transpose(0, 1), tokens) for tokens, weight in keys]  # (B, heads, in)
        scores = _sum(torch.bmm(each, tokens.mT) for each, tokens in asked) * scaling  # (B, heads, T)
        weights = cheap_dropout((scores + packing.mask.view(scores.shape)).softmax(-1), dropout)
        mixed = _sum(torch.bmm(torch.bmm(weights, tokens).transpose(0, 1), weight.mT) for tokens, weight in values)
        if value.bias is not None:
            mixed = mixed + weights.sum(-1).T[..., None] * at_least_float32(value.bias).view(heads, 1, d)
        return mixed.transpose(0, 1).reshape(-1, d).to(q.dtype)  # (heads, B, d) -> (B·heads, d)


def _factors(layer: Any, x: Tensor, rows: Tensor, whole: Packing, heads: int) -> Factors:
    """What the layer is the sum of, but for its bias: inputs times weights."""
    adapted = type(layer) is LoRALinear and layer.enabled
    weight = layer.merged_weight if adapted and layer.merged else layer.weight
    factors = [(rows, weight)]
    if adapted and not layer.merged:
        low = _Rows.apply(low_rank(layer, x), whole)  # type: ignore[no-untyped-call]
        factors.append((low, layer.scaling * layer.lora_B))
    return [(tokens, at_least_float32(each).view(heads, -1, each.shape[-1])) for tokens, each in factors]


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


class _Rows(torch.autograd.Function):
    """`to_rows` of tokens (N, in) -> (B, T, in), in at least float32.

    What is put behind short rows gets weight 0 in attention, so its gradient is 0 and need not be looked at.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        ctx.dtype = tokens.dtype
        return at_least_float32(to_rows(tokens, packing))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return to_tokens(grads[0], ctx.packing).to(ctx.dtype), None
