"""Where the real tokens of a padded batch stand in one row, and the two ways between: by token, and by row and head.

    tokens (N·heads, d)   --to_rows-->   (B·heads, T, d)   --to_tokens-->   (N·heads, d)

Each way is one copy, which also brings the heads of a row together as the matrix products of attention need them. Gradients
do not come through here by themselves: attention.py writes them out.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def of_tokens(packing: Packing) -> Packing:
    """The same for whole tokens, not split into heads: (N, d) and (B, T, d)."""
    heads, longest = packing.heads, packing.mask.shape[-1]
    gather = packing.gather.view(-1, heads, longest)[:, 0].flatten() // heads  # every head has the same tokens
    scatter = packing.scatter.view(-1, heads)[:, 0]
    row = scatter // (heads * longest)
    return Packing(1, packing.first, gather, row * longest + scatter % longest, packing.mask[::heads])


def to_rows(tokens: Tensor, packing: Packing) -> Tensor:
    """Shape: (N·heads, d) -> (B·heads, T, d), or (B·heads, d) -> (B·heads, 1, d): one token a row is a row already."""
    rows = len(packing.mask)
    return (
        tokens[:, None] if len(tokens) == rows else tokens.index_select(0, packing.gather).view(rows, -1, tokens.shape[-1])
    )


def to_tokens(rows: Tensor, packing: Packing) -> Tensor:
    """The way back, which leaves filling behind. Shape: (B·heads, T, d) -> (N·heads, d), (B·heads, 1, d) -> (B·heads, d)."""
    return rows.squeeze(1) if rows.shape[1] == 1 else rows.flatten(0, 1).index_select(0, packing.scatter)


def spread(tokens: Tensor, packing: Packing) -> Tensor:
    """`to_rows` with zeros at filling, as the gradient of what `to_tokens` leaves behind is."""
    rows = len(packing.mask)
    if len(tokens) == rows:
        return tokens[:, None]
    zeros = tokens.new_zeros(len(packing.gather), tokens.shape[-1])
    return zeros.index_copy_(0, packing.scatter, tokens).view(rows, -1, tokens.shape[-1])
