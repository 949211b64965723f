"""Texts, or pairs of texts, to token ids, in one flat tensor for all rows, with the offset of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError

UNUSED = {"return_attention_mask": False, "return_token_type_ids": False}
LONG = 2**16  # characters; a longer text is tokenized from its beginning on until there are tokens enough
MUCH_UNKNOWN = 0.03  # of all tokens: more is no accident
MOST = 2**20  # characters of a text that are read
SPARE = 64  # tokens at the end of such a beginning, which may differ: a word is cut there
CHUNK_ROWS = 512  # texts in one call: a tokenizer needs about 1 kB of memory for a token


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels. Row i is `tokens[offsets[i] : offsets[i + 1]]`.

    Shape: tokens (total,) int32; offsets (n + 1,) int64, always on the CPU; labels (n,) or (n, C), by the
        task; token_types (total,) uint8, None if the model has none.

    Args:
        truncated: how many rows were cut to `max_tokens`. `select` does not change it.
        truncated_sides: for pairs, how many first and how many second texts were cut.
        unknown: how many tokens are the tokenizer's unknown token.
    """

    tokens: Tensor
    offsets: Tensor
    labels: Tensor
    truncated: int
    max_tokens: int
    token_types: Tensor | None = None
    truncated_sides: tuple[int, int] | None = None
    unknown: int = 0

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of every row, special tokens included. Shape: (n,) int64."""
        return self.offsets.diff()

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row; 0 without rows."""
        return int(self.lengths.max()) if len(self.lengths) else 0

    def __len__(self) -> int:
        return len(self.labels)

    def losses(self, name: str) -> list[str]:
        """Return a line for everything that the model will not see of the rows called `name`."""
        lines = []
        if self.truncated:
            sides = self.truncated_sides
            more = f" ({sides[0]:,} first, {sides[1]:,} second texts)" if sides else ""
            lines.append(f"{self.truncated:,} of {len(self):,} {name} rows are cut to {self.max_tokens} tokens{more}")
        if self.unknown:
            share = self.unknown / len(self.tokens)
            advice = "; the tokenizer may not be the model's own, or not for this language" if share > MUCH_UNKNOWN else ""
            lines.append(f"{self.unknown:,} of {len(self.tokens):,} {name} tokens ({share:.1%}) are unknown{advice}")
        return lines

    def to(self, device: torch.device | str) -> Encoded:
        """Return tokens and labels on `device`, where `collate` builds batches. Offsets stay."""
        types = None if self.token_types is None else self.token_types.to(device)
        return replace(self, tokens=self.tokens.to(device), labels=self.labels.to(device), token_types=types)

    def select(self, rows: Sequence[int]) -> Encoded:
        """Return these rows in this order."""
        index = torch.tensor(rows, dtype=torch.int64)
        lengths = self.lengths[index]  # (n,)
        offsets = _offsets(lengths)
        # position j of the result is position j - (new start of its row) + (old start)
        shift = (self.offsets[:-1][index] - offsets[:-1]).repeat_interleave(lengths)  # (total,)
        place = torch.arange(len(shift)) + shift
        types = None if self.token_types is None else self.token_types[place]
        return replace(self, tokens=self.tokens[place], offsets=offsets, labels=self.labels[index], token_types=types)


def encode(
    texts: Sequence[str],
    labels: Sequence[int] | Tensor,
    tokenizer: Any,
    *,
    max_tokens: int,
    pairs: Sequence[str] | None = None,
) -> Encoded:
    """Return the token ids of `texts` with special tokens, cut to `max_tokens`.

    Args:
        labels: class numbers, or a task's tensor of labels.
        tokenizer: a fast tokenizer of transformers.
        max_tokens: at least 3 (two special tokens and one of the text), at most the model's limit.
        pairs: the second texts. Both are joined by the tokenizer's own template; the longer one is cut first.

    Raises:
        ConfigError: `max_tokens` out of range, or a slow tokenizer.
        DataError: a text that is no valid Unicode, or not as many labels or second texts as texts.
    """
    labels = labels if isinstance(labels, Tensor) else torch.tensor(labels, dtype=torch.int64)
    _check(texts, labels, pairs, tokenizer, max_tokens)
    tokens, types, cut = [torch.empty(0, dtype=torch.int32)], [torch.empty(0, dtype=torch.uint8)], _Cut()
    lengths: list[int] = []
    for start in range(0, len(texts), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        encodings = _tokenize(texts[rows], pairs[rows] if pairs else None, start, tokenizer, max_tokens)
        tokens.append(torch.tensor([token for e in encodings for token in e.ids], dtype=torch.int32))
        if pairs:
            types.append(torch.tensor([number for e in encodings for number in e.type_ids], dtype=torch.uint8))
        lengths += [len(encoding) for encoding in encodings]
        cut.count(encodings, max_tokens)
        cut.rows += sum(len(text) > MOST and len(e) < max_tokens for text, e in zip(texts[rows], encodings, strict=True))
    has_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    flat, unknown = torch.cat(tokens), tokenizer.unk_token_id
    return Encoded(
        flat,
        _offsets(torch.tensor(lengths, dtype=torch.int64)),
        labels,
        cut.rows,
        max_tokens,
        token_types=torch.cat(types) if has_types else None,
        truncated_sides=(cut.sides[0], cut.sides[1]) if pairs else None,
        unknown=0 if unknown is None else int((flat == unknown).sum()),
    )


def beginning(text: str, tokenizer: Any, *, max_tokens: int) -> str:
    """Return the text, or of a very long one a beginning with more tokens than are kept.

    A tokenizer needs 180 bytes a character: a line of 20 MB would take 3.7 GB for the few tokens that stay. A text
    that has too few tokens in its first MOST characters is cut there, and counted as cut.
    """
    size, text = LONG, text[:MOST]
    while size < len(text):
        start = text[:size]
        tokens = tokenizer(start, add_special_tokens=False, verbose=False, **UNUSED).input_ids
        if len(tokens) > max_tokens + SPARE:
            return start
        size *= 4
    return text


class _Cut:
    """Counts the rows that were cut, and the sides of pairs."""

    def __init__(self) -> None:
        self.rows, self.sides = 0, [0, 0]

    def count(self, encodings: Sequence[Any], max_tokens: int) -> None:
        """Count those of these rows. `overflowing` copies what was cut off: read it only where there can be some."""
        for encoding in encodings:
            if len(encoding) < max_tokens or not (rest := encoding.overflowing):
                continue
            self.rows += 1
            kept = {(side, *offset) for side, offset in _places(encoding)}
            lost = {side for part in rest for side, offset in _places(part) if (side, *offset) not in kept}
            for side in lost:
                self.sides[side] += 1


def _places(encoding: Any) -> list[tuple[int, tuple[int, int]]]:
    """Return (side, place in the text) of every token that is not a special one."""
    places = zip(encoding.sequence_ids, encoding.offsets, strict=True)
    return [(side, offset) for side, offset in places if side is not None]


def _tokenize(texts: Sequence[str], pairs: Sequence[str] | None, start: int, tokenizer: Any, max_tokens: int) -> list[Any]:
    for row, text in [*enumerate(texts, start=start), *enumerate(pairs or (), start=start)]:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # from the command line; the tokenizer names no row
            problem = f"not valid Unicode at character {error.start + 1}"
            raise DataError(problem, where=f"text {row + 1}", expected="UTF-8") from error
    sides = (texts,) if pairs is None else (texts, pairs)
    both = ([beginning(text, tokenizer, max_tokens=max_tokens) for text in side] for side in sides)
    return list(tokenizer(*both, truncation=True, max_length=max_tokens, **UNUSED).encodings)


def _check(texts: Sequence[str], labels: Tensor, pairs: Sequence[str] | None, tokenizer: Any, max_tokens: int) -> None:
    if pairs is not None and len(texts) != len(pairs):
        problem = f"{len(texts)} texts and {len(pairs)} second texts"
        raise DataError(problem, expected="as many second texts as texts")
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
