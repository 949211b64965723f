"""Copies between the tokens of a padded batch in one sequence, and its rows one by one.

    tokens (N·heads, d)   --to_rows-->   (B·heads, T, d)   --to_tokens-->   (N·heads, d)

Each is one copy, which also brings the tokens of a row and head together for the products of
attention. Autograd does not differentiate them: fast/attention.py writes the gradients out.

The sequence may end in fillers, so that its length comes back (fast/onednn.py). They belong to no
row: attention gives them zeros, forward and backward, so no gradient comes from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The places of N tokens in B rows of at most T tokens.

    Shape: first (B,), the first token of each row. gather (B·heads·T,), indices into tokens.
        scatter (N·heads,), indices into rows. mask (B·heads, 1, T), 0 for tokens, -inf for padding.
    fillers: tokens after the N ones of the rows.
    """

    heads: int
    first: Tensor
    gather: Tensor
    scatter: Tensor
    mask: Tensor
    fillers: int = 0

    @cached_property
    def of_three(self) -> Packing:
        """The same for queries, keys and values side by side: (N·3·heads, d) and (3·B·heads, T, d), with T > 1."""
        which = torch.arange(3)[:, None]
        gather = (self.gather // self.heads * 3 + which) * self.heads + self.gather % self.heads  # (3, B·heads·T)
        scatter = self.scatter.view(-1, 1, self.heads) + which * len(self.gather)  # (N, 3, heads)
        mask = self.mask.repeat(3, 1, 1)
        return Packing(3 * self.heads, self.first, gather.flatten(), scatter.flatten(), mask, self.fillers)


def pack(attention_mask: Tensor, *, heads: int, multiple: int = 1) -> Packing:
    """Return the packing of a batch padded on the right, no row empty. Shape: mask (B, T).

    Args:
        multiple: N and the fillers together are a multiple of this, unless all rows have one token.
    """
    longest = attention_mask.shape[1]
    real = attention_mask.bool()
    lengths = real.sum(1)
    first = lengths.cumsum(0) - lengths  # (B,)
    head = torch.arange(heads, device=real.device)
    # padding reads the first token of its row; any token will do, since the mask removes it
    token = first[:, None] + torch.arange(longest, device=real.device) * real  # (B, T)
    gather = token[:, None, :] * heads + head[:, None]  # (B, heads, T)
    row, column = real.nonzero(as_tuple=True)  # (N,), (N,)
    scatter = (row[:, None] * heads + head) * longest + column[:, None]  # (N, heads)
    mask = torch.zeros(real.shape, device=real.device).masked_fill(~real, -torch.inf)
    mask = mask.repeat_interleave(heads, 0)[:, None]  # (B·heads, 1, T)
    fillers = -len(row) % multiple if longest > 1 else 0
    return Packing(heads, first, gather.flatten(), scatter.flatten(), mask, fillers)


def packing_of_tokens(packing: Packing) -> Packing:
    """Return the same packing for tokens that are not split into heads: (N, d) and (B, T, d)."""
    heads, longest = packing.heads, packing.mask.shape[-1]
    gather = packing.gather.view(-1, heads, longest)[:, 0].flatten() // heads
    scatter = packing.scatter.view(-1, heads)[:, 0]
    row = scatter // (heads * longest)
    scatter = row * longest + scatter % longest
    return Packing(1, packing.first, gather, scatter, packing.mask[::heads], packing.fillers)


def to_rows(tokens: Tensor, packing: Packing) -> Tensor:
    """Copy tokens into rows. Padding gets some token.

    Shape: (N·heads, d) -> (B·heads, T, d), or first tokens (B·heads, d) -> (B·heads, 1, d).
    """
    rows = len(packing.mask)
    if len(tokens) == rows:
        return tokens[:, None]
    return tokens.index_select(0, packing.gather).view(rows, -1, tokens.shape[-1])


def to_rows_with_zeros(tokens: Tensor, packing: Packing) -> Tensor:
    """Copy tokens into rows. Padding gets zeros: this is the gradient of `to_tokens`."""
    rows = len(packing.mask)
    if len(tokens) == rows:
        return tokens[:, None]
    zeros = tokens.new_zeros(len(packing.gather), tokens.shape[-1])
    real = tokens[: len(packing.scatter)]
    return zeros.index_copy_(0, packing.scatter, real).view(rows, -1, tokens.shape[-1])


def to_tokens(rows: Tensor, packing: Packing) -> Tensor:
    """Copy rows into tokens, without the padding. Fillers get zeros. Shape: that of `to_rows` reversed."""
    if rows.shape[1] == 1:
        return rows.squeeze(1)
    real = len(packing.scatter)
    tokens = rows.new_empty(real + packing.fillers * packing.heads, rows.shape[-1])
    torch.index_select(rows.flatten(0, 1), 0, packing.scatter, out=tokens[:real])
    tokens[real:].zero_()
    return tokens
