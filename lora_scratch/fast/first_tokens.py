r"""Attention for the [CLS] query alone: key and value weights act on the query, not on every token.

For the query q of a row and a head, the inputs x_j of its tokens, and weights W_k, W_v of the head:

    q · (W_k x_j + b_k) = (W_kᵀ q) · x_j + constant
    Σ p_j (W_v x_j + b_v) = W_v (Σ p_j x_j) + b_v Σ p_j

Softmax removes the constant. So a product with one vector a row replaces one with a vector a token.
LoRA's update s B A x_j has the same form: A x_j (after dropout) replaces x_j, and s B replaces W.

Worth, in DistilBERT: 4 of the 121 products of tokens and (hidden, hidden) in a training step, 2 of
62 in prediction; measured 1.4 to 3 % of a step in bfloat16, 2 % in float32.
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
from .forwards import is_watched
from .fused_lora import low_rank
from .packing import Packing, packing_of_tokens, to_rows, to_tokens

Factors = list[tuple[Tensor, Tensor]]  # inputs (B, T, in), and weights by head (heads, d, in)


def can_absorb(layer: nn.Module) -> bool:
    """Return whether the formula fits: a frozen linear layer, plain or with LoRA, without hooks."""
    plain_lora = type(layer) is LoRALinear and isinstance(layer.dropout, nn.Dropout)
    base: Any = layer.base if plain_lora else layer
    # the bias of a trained key would get no gradient instead of a gradient of 0
    frozen = not torch.is_grad_enabled() or not any(p.requires_grad for p in base.parameters())
    return type(base) is nn.Linear and frozen and not is_watched(layer, base) and not is_sharded(base.weight)


def first_token_attention(
    q: Tensor,
    x: Tensor,
    key: Any,
    value: Any,
    packing: Packing,
    *,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(scaling · q kᵀ) v with k = key(x) and v = value(x), in the dtype of q.

    Compute in at least float32: in half precision oneDNN would compile small products for every
    width of a batch.

    Shape: q (B·heads, d) of first tokens, x (N, hidden) of all tokens -> (B·heads, d).
    """
    heads, d, x = packing.heads, q.shape[-1], x.to(q.dtype)
    with torch.autocast(x.device.type, enabled=False):
        by_token = packing_of_tokens(packing)
        rows = _Rows.apply(x, by_token)  # type: ignore[no-untyped-call]
        query = at_least_float32(q).view(-1, heads, d).transpose(0, 1)  # (heads, B, d)
        keys, values = (_factors(layer, x, rows, by_token, heads) for layer in (key, value))
        queries = [(torch.bmm(query, w).transpose(0, 1), inputs) for inputs, w in keys]
        scores = _sum(torch.bmm(w_q, inputs.mT) for w_q, inputs in queries) * scaling
        p = cheap_dropout((scores + packing.mask.view(scores.shape)).softmax(-1), dropout)
        means = [(torch.bmm(p, inputs).transpose(0, 1), w) for inputs, w in values]
        output = _sum(torch.bmm(mean, w.mT) for mean, w in means)  # (heads, B, d)
        if value.bias is not None:
            bias = at_least_float32(value.bias).view(heads, 1, d)
            output = output + p.sum(-1).T[..., None] * bias
        return output.transpose(0, 1).reshape(-1, d).to(q.dtype)


def _factors(layer: Any, x: Tensor, rows: Tensor, by_token: Packing, heads: int) -> Factors:
    """Return inputs and weights whose products add up to the layer's output without its bias."""
    adapted = type(layer) is LoRALinear and layer.enabled
    factors = [(rows, layer.merged_weight if adapted and layer.merged else layer.weight)]
    if adapted and not layer.merged:
        low = _Rows.apply(low_rank(layer, x), by_token)  # type: ignore[no-untyped-call]
        factors.append((low, layer.scaling * layer.lora_B))
    return [(inputs, at_least_float32(w).view(heads, -1, w.shape[-1])) for inputs, w in factors]


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


class _Rows(torch.autograd.Function):
    """`to_rows` in at least float32. The gradient of padding is not read: attention makes it 0."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.dtype = packing, tokens.dtype
        return at_least_float32(to_rows(tokens, packing))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return to_tokens(grads[0], ctx.packing).to(ctx.dtype), None
