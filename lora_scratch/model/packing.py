r"""Where the real tokens of a padded batch stand in one row, and the two ways between: by token, and by row and head.

    tokens (N·heads, d)   --to_rows-->   (B·heads, T, d)   --to_tokens-->   (N·heads, d)

Each way is one copy, which also brings the heads of a row together as the matrix products of attention need them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """B rows, T the longest, N tokens in all, for `heads` heads.

    Shape: first (B,), where each row begins; gather (B·heads·T,) into (N·heads); scatter (N·heads,) back into it;
        mask (B·heads, 1, T), 0 for a token and -inf for the filling that `gather` puts behind short rows.
    """

    heads: int
    first: Tensor
    gather: Tensor
    scatter: Tensor
    mask: Tensor


def pack(attention_mask: Tensor, *, heads: int) -> Packing:
    """The packing of a batch padded on the right. Shape: attention_mask (B, T), at least one token a row."""
    longest = attention_mask.shape[1]
    real = attention_mask.bool()
    lengths = real.sum(1)
    first = lengths.cumsum(0) - lengths  # (B,)
    head = torch.arange(heads, device=real.device)
    # filling reads its row's first token, which is as good as any: the mask takes it out
    token = first[:, None] + torch.arange(longest, device=real.device) * real  # (B, T)
    gather = token[:, None, :] * heads + head[:, None]  # (B, heads, T) -> token·heads + head
    row, place = real.nonzero(as_tuple=True)  # (N,) each
    scatter = (row[:, None] * heads + head) * longest + place[:, None]  # (N, heads) -> (row·heads + head)·T + place
    mask = torch.zeros(real.shape, device=real.device).masked_fill(~real, -torch.inf)
    return Packing(heads, first, gather.flatten(), scatter.flatten(), mask.repeat_interleave(heads, 0)[:, None])


def to_rows(tokens: Tensor, packing: Packing) -> Tensor:
    """Shape: (N·heads, d) -> (B·heads, T, d). The gradient of what stands at filling must be zero, as attention's is."""
    rows: Tensor = _ToRows.apply(tokens, packing)  # type: ignore[no-untyped-call]
    return rows.view(*packing.mask.shape[::2], -1)


def to_tokens(rows: Tensor, packing: Packing) -> Tensor:
    """Shape: (B·heads, T, d) -> (N·heads, d). Filling is left behind, and its gradient is zero."""
    tokens: Tensor = _ToTokens.apply(rows.flatten(0, 1), packing)  # type: ignore[no-untyped-call]
    return tokens


class _ToRows(torch.autograd.Function):
    """The way back only selects: autograd's own would add up the gradients of the filling, all zero, entry by entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return x.index_select(0, packing.gather)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.packing.scatter), None


class _ToTokens(torch.autograd.Function):
    """Every index occurs once, so the way back copies where autograd's own would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.shape = packing, x.shape
        return x.index_select(0, packing.scatter)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].new_zeros(ctx.shape).index_copy_(0, ctx.packing.scatter, grads[0]), None
