"""Plan which rows form a batch, and build the batch.

Rows of similar length need little padding. A plan is a pure function of its arguments: a resumed
run and every process compute the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..runtime.seeds import named_generator
from .encode import Encoded

IGNORED = -100  # the class that cross entropy ignores; of labels that are floats, NaN
POOL_BATCHES = 50  # more: rows of a batch closer in length; fewer: batches more random


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right; `rows` are their numbers in the data set.

    Shape: input_ids, attention_mask, token_type_ids (B, T) int64; labels (B,) or (B, C); rows (B,) int64.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: Tensor
    token_type_ids: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a model of transformers is called with."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else {**inputs, "token_type_ids": self.token_type_ids}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, without those that the batch does not have."""
        return {"labels": self.labels, "rows": self.rows, **self.inputs}

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the tokens of a row with padding."""
        return tuple(self.input_ids.shape)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Batch:
        """Return a batch of other `tensors`."""
        return Batch(**tensors)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return self.with_tensors({name: tensor.to(device) for name, tensor in self.tensors.items()})

    def chunk(self, count: int) -> list[Batch]:
        """Return the rows in at most `count` batches of similar size."""
        parts = zip(*(tensor.chunk(count) for tensor in self.tensors.values()), strict=True)
        return [Batch(**dict(zip(self.tensors, part, strict=True))) for part in parts]


def plan_batches(lengths: Tensor, *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of an epoch's batches. Every row is used once.

    Rows are shuffled and cut into pools of 50 batches. A pool is sorted by length and cut into
    batches, and the batches are shuffled. One batch may be smaller. Shape: lengths (n,).

    Raises:
        ConfigError: batch_size below 1.
    """
    if batch_size < 1:
        problem = f"a batch of {batch_size} rows"
        raise ConfigError(problem, where="--batch_size", expected="at least 1")
    if not len(lengths):
        return []
    generator = named_generator(seed, f"batches of epoch {epoch}")
    shuffled = torch.randperm(len(lengths), generator=generator)  # (n,)
    pool = torch.arange(len(lengths)) // (POOL_BATCHES * batch_size)  # (n,)
    by_pool_and_length = pool * (int(lengths.max()) + 1) + lengths[shuffled]  # (n,)
    batches = torch.split(shuffled[by_pool_and_length.argsort(stable=True)], batch_size)
    order = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[index].tolist() for index in order]


def plan_eval_batches(lengths: Tensor, *, batch_tokens: int, equal_lengths: bool = False) -> list[list[int]]:
    """Return the row numbers of batches of about `batch_tokens` tokens, padding included.

    The longest rows come first, so that memory is too small at the start or never. A batch has at
    least one row. Shape: lengths (n,).

    Args:
        equal_lengths: whether a batch has rows of one length alone, for models that read the padding.
    """
    order = lengths.argsort(descending=True, stable=True)  # (n,)
    groups = [order]
    if equal_lengths:
        _, counts = torch.unique_consecutive(lengths[order], return_counts=True)
        groups = list(torch.split(order, counts.tolist()))
    return [batch for group in groups for batch in _in_token_batches(group.tolist(), lengths, batch_tokens)]


def _in_token_batches(order: list[int], lengths: Tensor, batch_tokens: int) -> list[list[int]]:
    batches, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def shard_batch(
    encoded: Encoded, rows: Sequence[int], *, rank: int, world: int, pad_token_id: int, multiple: int = 1
) -> Batch:
    """Return the part of a batch for process `rank` of `world`: every `world`-th row.

    If there are fewer rows than processes, some get the first row with the label IGNORED: they run
    the model as the others do, and their loss and gradient are zero.
    """
    own = rows[rank::world]
    batch = collate(encoded, own or rows[:1], pad_token_id=pad_token_id, multiple=multiple)
    if own:
        return batch
    return replace(batch, labels=torch.full_like(batch.labels, math.nan if batch.labels.is_floating_point() else IGNORED))


def collate(encoded: Encoded, rows: Sequence[int], *, pad_token_id: int, multiple: int = 1) -> Batch:
    """Return the batch of these rows, in this order, on the device of the tokens.

    A GPU gets row numbers, starts and lengths in one copy, which the host doesn't wait for.

    Shape: (B, T); T is the longest row, rounded up to `multiple`, at most `max_tokens`.
    """
    device = encoded.tokens.device
    index = torch.tensor(rows, dtype=torch.int64)  # (B,)
    starts, lengths = encoded.offsets[:-1][index], encoded.lengths[index]  # (B,)
    longest = int(lengths.max()) if len(rows) else 0
    width = max(longest, min(-(-longest // multiple) * multiple, encoded.max_tokens))
    numbers = torch.stack([index, starts, lengths])
    index, starts, lengths = numbers.to(device, non_blocking=True).unbind()
    position = torch.arange(width, device=device)  # (T,)
    mask = position < lengths[:, None]  # (B, T)
    place = (starts[:, None] + position).mul_(mask)  # (B, T); padding reads token 0
    input_ids = encoded.tokens[place].long().masked_fill_(~mask, pad_token_id)
    types = None if encoded.token_types is None else encoded.token_types[place].long().mul_(mask)
    return Batch(input_ids, mask.long(), encoded.labels[index], index, types)
