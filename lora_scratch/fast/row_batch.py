"""A batch as the numbers of its rows: the device builds it, without padding, from the rows it holds.

    host      (3, R) numbers: row, start, length        one small copy, which no host waits for
    device    ids, positions, starts of rows, labels     N tokens of R rows, in a CUDA graph too

N is a bucket: few sizes serve all batches, so few graphs do. Rows of other tokens fill the bucket
up. They are rows of their own, so attention keeps them apart, and the logits leave them out: their
gradient is zero, and so is their part of every sum. There is at least one, and none is empty or
longer than the longest of the data: kernels leave what belongs to no row unwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import Batch, Encoded
from .segments import Kernel, Segments, row_of_each

MULTIPLE = 8  # tokens; matrix products of GPUs are fastest then
PARTS = 4  # sizes between two powers of two: 10 % more tokens on the emotion data, 15 sizes; 8: 5 %, 27


class RowBatch(Batch):
    """Rows of `encoded`, which is on the device.

    Shape: numbers (3, R) int64: row, start and length; the last columns are rows that fill up.

    Args:
        rows: those that count, the first ones.
        tokens: N, the sum of all lengths.
    """

    def __init__(self, encoded: Encoded, numbers: Tensor, *, rows: int, tokens: int, kernel: Kernel) -> None:
        values = {"encoded": encoded, "numbers": numbers, "count": rows, "tokens": tokens}
        vars(self).update(values, kernel=kernel)  # a frozen dataclass

    encoded: Encoded
    numbers: Tensor
    count: int
    tokens: int
    kernel: Kernel

    @property
    def rows(self) -> Tensor:
        """The numbers of the rows that count. Shape: (B,)."""
        return self.numbers[0, : self.count]

    @property
    def labels(self) -> Tensor:
        """Their labels. Shape: (B,) or (B, C)."""
        return self.encoded.labels[self.rows]

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model inside `packed` is called with."""
        segments = self._segments()
        place = self.numbers[1][segments.row] + segments.position  # (N,)
        inputs = {"input_ids": self.encoded.tokens[place].long()[None], "packing": segments}
        types = self.encoded.token_types
        return inputs if types is None else {**inputs, "token_type_ids": types[place].long()[None]}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What differs between two batches of one shape."""
        return {"numbers": self.numbers}

    @property
    def shape(self) -> tuple[int, ...]:
        """All that the operators of a pass depend on."""
        return (self.tokens, self.numbers.shape[1], self.count)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> RowBatch:
        """Return a batch of the same shape with other numbers."""
        options: dict[str, Any] = {"rows": self.count, "tokens": self.tokens, "kernel": self.kernel}
        return RowBatch(self.encoded, tensors["numbers"], **options)

    def chunk(self, count: int) -> list[Batch]:
        """Return the rows in at most `count` batches. The host waits if there are several."""
        if count == 1:
            return [self]
        parts = self.rows.cpu().chunk(count)
        return [row_batch(self.encoded, part.tolist(), self.kernel) for part in parts]

    def _segments(self) -> Segments:
        _, _, lengths = self.numbers
        first = lengths.cumsum(0) - lengths  # (R,)
        starts = torch.cat([first, first.new_full((1,), self.tokens)]).int()  # (R + 1,)
        row = row_of_each(starts, self.tokens)  # (N,)
        position = torch.arange(self.tokens, device=first.device) - first[row]  # (N,)
        longest = self.encoded.longest
        return Segments(starts, first, position, row, rows=self.count, longest=longest, kernel=self.kernel)


def row_batch(encoded: Encoded, rows: Sequence[int], kernel: Kernel) -> RowBatch:
    """Return the batch of these rows, in this order, on the device of the tokens."""
    index = torch.tensor(rows, dtype=torch.int64)  # (B,)
    lengths = encoded.lengths[index]
    tokens, filling = fill_up(int(lengths.sum()), longest=encoded.longest)
    numbers = torch.zeros(3, len(rows) + len(filling), dtype=torch.int64)
    numbers[:2, : len(rows)] = torch.stack([index, encoded.offsets[:-1][index]])
    numbers[2] = torch.cat([lengths, torch.tensor(filling)])
    numbers = numbers.to(encoded.tokens.device, non_blocking=True)
    return RowBatch(encoded, numbers, rows=len(rows), tokens=tokens, kernel=kernel)


def fill_up(tokens: int, *, longest: int) -> tuple[int, list[int]]:
    """Return the size of the bucket, and the lengths of the rows that fill it up.

    Their number follows from the size alone, or nearly. Each has 1 to `longest` tokens.
    """
    step = max(MULTIPLE, 2 ** (tokens.bit_length() - 1) // PARTS)
    rows = -(-step // (longest - 1))
    size = -(-(tokens + rows) // step) * step
    each, rest = divmod(size - tokens, rows)
    return size, [each + 1] * rest + [each] * (rows - rest)


def can_fill_up(encoded: Encoded) -> bool:
    """Return whether rows can be filled up: a row of two tokens or more, as every real text has."""
    return encoded.longest > 1
