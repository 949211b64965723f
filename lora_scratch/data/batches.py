"""Which rows stand together in a batch, and the batch itself.

Rows of like length in one batch need little padding, and a plan that is a pure function of its arguments needs no state:
a resumed run, another rank and a test all compute the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..runtime.seeds import named_generator
from .encode import Encoded

IGNORED = -100  # cross entropy's own word for a row without a label
POOL_BATCHES = 50  # enough that neighbours by length are alike, few enough that batches stay random


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest of them.

    Shape: input_ids, attention_mask (B, T) int64; labels, rows (B,) int64, where `rows` are their numbers in the data set.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), self.rows.to(device))

    def chunk(self, count: int) -> list[Batch]:
        """The same rows in at most `count` batches of like size."""
        fields = (self.input_ids, self.attention_mask, self.labels, self.rows)
        return [Batch(*parts) for parts in zip(*(field.chunk(count) for field in fields), strict=True)]


def plan_batches(lengths: Tensor, *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: random, of like lengths, every row once.

    Rows are shuffled and cut into pools of 50 batches; each pool is sorted by length and cut into batches; the batches are
    shuffled. One batch is smaller if `batch_size` does not divide the number of rows.

    Shape: lengths (n,).

    Raises:
        ConfigError: batch_size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch of {batch_size} rows", where="--batch_size", expected="at least 1")
    if not len(lengths):
        return []
    generator = named_generator(seed, f"batches of epoch {epoch}")
    shuffled = torch.randperm(len(lengths), generator=generator)  # (n,)
    pool = torch.arange(len(lengths)) // (POOL_BATCHES * batch_size)  # (n,)
    by_pool_and_length = pool * (int(lengths.max()) + 1) + lengths[shuffled]  # (n,)
    batches = torch.split(shuffled[by_pool_and_length.argsort(stable=True)], batch_size)
    order = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[index].tolist() for index in order]


def plan_eval_batches(lengths: Tensor, *, batch_tokens: int) -> list[list[int]]:
    """Batches for evaluation: the longest rows first, so that memory runs out at the start or not at all.

    As many rows as are `batch_tokens` when padded to the longest of them, at least one: few long rows or many short ones
    take the same memory and the same time, and matrix products have about the same size throughout.

    Shape: lengths (n,).
    """
    order = lengths.argsort(descending=True, stable=True).tolist()
    batches, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def shard_batch(
    encoded: Encoded, rows: Sequence[int], *, rank: int, world: int, pad_token_id: int, multiple: int = 1
) -> Batch:
    """What process `rank` of `world` has to do of the batch of these rows: every `world`-th row.

    So short and long rows are shared evenly. Where there are fewer rows than processes, some get the first row with the
    label that a loss ignores: their loss and gradient are zero, but they go through the model like the others.
    """
    own = rows[rank::world]
    batch = collate(encoded, own or rows[:1], pad_token_id=pad_token_id, multiple=multiple)
    return batch if own else replace(batch, labels=torch.full_like(batch.labels, IGNORED))


def collate(encoded: Encoded, rows: Sequence[int], *, pad_token_id: int, multiple: int = 1) -> Batch:
    """The batch of these rows of `encoded`, in this order, on the device of its tokens.

    Where that is a GPU, only row numbers, starts and lengths go there, in one message that the host doesn't wait for, and
    nothing comes back.

    Shape: (B, T) with B = len(rows) and T the length of the longest of them, or the next multiple of `multiple` up to the
        most tokens that a row may have.
    """
    device = encoded.tokens.device
    index = torch.tensor(rows, dtype=torch.int64)  # (B,)
    starts, lengths = encoded.offsets[:-1][index], encoded.lengths[index]  # (B,)
    longest = int(lengths.max()) if len(rows) else 0
    width = max(longest, min(-(-longest // multiple) * multiple, encoded.max_tokens))
    index, starts, lengths = torch.stack([index, starts, lengths]).to(device, non_blocking=True).unbind()
    position = torch.arange(width, device=device)  # (T,)
    mask = position < lengths[:, None]  # (B, T)
    place = (starts[:, None] + position).mul_(mask)  # (B, T); filling reads the first token, which is there
    input_ids = encoded.tokens[place].long().masked_fill_(~mask, pad_token_id)
    return Batch(input_ids, mask.long(), encoded.labels[index], index)
