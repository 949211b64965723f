"""Texts to token ids, in one flat tensor for all rows, with the offset of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError

CHUNK_ROWS = 512  # texts in one call: a tokenizer needs about 1 kB of memory for a token


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels. Row i is `tokens[offsets[i] : offsets[i + 1]]`.

    Shape: tokens (total,) int32; offsets (n + 1,) int64, always on the CPU; labels (n,) int64.

    Args:
        truncated: how many texts were cut to `max_tokens`. `select` does not change it.
    """

    tokens: Tensor
    offsets: Tensor
    labels: Tensor
    truncated: int
    max_tokens: int

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of every row, special tokens included. Shape: (n,) int64."""
        return self.offsets.diff()

    def __len__(self) -> int:
        return self.labels.numel()

    def to(self, device: torch.device | str) -> Encoded:
        """Return tokens and labels on `device`, where `collate` builds batches. Offsets stay."""
        return replace(self, tokens=self.tokens.to(device), labels=self.labels.to(device))

    def select(self, rows: Sequence[int]) -> Encoded:
        """Return these rows in this order."""
        index = torch.tensor(rows, dtype=torch.int64)
        lengths = self.lengths[index]  # (n,)
        offsets = _offsets(lengths)
        # position j of the result is position j - (new start of its row) + (old start)
        shift = (self.offsets[:-1][index] - offsets[:-1]).repeat_interleave(lengths)  # (total,)
        tokens = self.tokens[torch.arange(len(shift)) + shift]
        return Encoded(tokens, offsets, self.labels[index], self.truncated, self.max_tokens)


def encode(texts: Sequence[str], labels: Sequence[int], tokenizer: Any, *, max_tokens: int) -> Encoded:
    """Return the token ids of `texts` with special tokens, cut to `max_tokens`.

    Args:
        tokenizer: a fast tokenizer of transformers.
        max_tokens: at least 3 (two special tokens and one of the text), at most the model's limit.

    Raises:
        ConfigError: `max_tokens` out of range, or a slow tokenizer.
        DataError: a text that is no valid Unicode, or not as many labels as texts.
    """
    _check(texts, labels, tokenizer, max_tokens)
    tokens: list[Tensor] = []
    lengths: list[int] = []
    truncated = 0
    for start in range(0, len(texts), CHUNK_ROWS):
        encodings = _tokenize(texts, start, tokenizer, max_tokens)
        ids = [encoding.ids for encoding in encodings]
        tokens.append(torch.tensor([token for row in ids for token in row], dtype=torch.int32))
        lengths += [len(row) for row in ids]
        # `overflowing` copies the tokens that were cut off: read it only where there can be some
        full = [encoding for encoding in encodings if len(encoding) >= max_tokens]
        truncated += sum(bool(encoding.overflowing) for encoding in full)
    flat = torch.cat(tokens) if tokens else torch.empty(0, dtype=torch.int32)
    offsets = _offsets(torch.tensor(lengths, dtype=torch.int64))
    return Encoded(flat, offsets, torch.tensor(labels, dtype=torch.int64), truncated, max_tokens)


def _tokenize(texts: Sequence[str], start: int, tokenizer: Any, max_tokens: int) -> list[Any]:
    chunk = list(texts[start : start + CHUNK_ROWS])
    for row, text in enumerate(chunk, start=start):
        try:
            text.encode()
        except UnicodeEncodeError as error:  # from the command line; the tokenizer names no row
            problem = f"not valid Unicode at character {error.start + 1}"
            raise DataError(problem, where=f"text {row + 1}", expected="UTF-8") from error
    unused = {"return_attention_mask": False, "return_token_type_ids": False}
    return list(tokenizer(chunk, truncation=True, max_length=max_tokens, **unused).encodings)


def _check(texts: Sequence[str], labels: Sequence[int], tokenizer: Any, max_tokens: int) -> None:
    if len(texts) != len(labels):
        problem = f"{len(texts)} texts and {len(labels)} labels"
        raise DataError(problem, expected="as many labels as texts")
    if not tokenizer.is_fast:
        problem = f"{type(tokenizer).__name__} is a slow tokenizer"
        raise ConfigError(problem, expected="a fast one (tokenizer.json)")
    limit = int(tokenizer.model_max_length)  # 1e30 if the tokenizer has none
    if max_tokens < 3:
        problem = f"{max_tokens} leaves no room for the text"
        raise ConfigError(problem, where="--max_tokens", expected="at least 3")
    if max_tokens > limit:
        problem = f"{max_tokens} is more than the model reads"
        raise ConfigError(problem, where="--max_tokens", expected=f"at most {limit}")


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
