"""The verdict in words, the rows that were fixed and broken, and the accuracy by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .bootstrap import CONFIDENCE, Interval
from .mcnemar import McNemar, mcnemar
from .metrics import Metrics, correct, measure

SIGNIFICANCE = 0.05
MOST_LISTED = 1000  # rows of each kind in a report; McNemar holds their full number
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {"better": (BETTER,), "not_worse": (BETTER, NOT_SHOWN)}
CLAIMS = {
    BETTER: "The adapted model is better than the frozen baseline",
    WORSE: "The adapted model is worse than the frozen baseline",
    NOT_SHOWN: "A difference between the adapted model and the frozen baseline is not shown at this size",
}


@dataclass(frozen=True)
class Verdict:
    """`better`, `worse` or `not shown`, and a sentence with the figures."""

    word: str
    sentence: str


@dataclass(frozen=True)
class ChangedRow:
    """A row that exactly one model has right, counted from 0; its text if it is known."""

    row: int
    label: str
    before: str
    after: str
    text: str | None = None


@dataclass(frozen=True)
class ChangedRows:
    """The rows `fixed` (wrong, then right) and `broken` (right, then wrong), in data-set order."""

    fixed: list[ChangedRow]
    broken: list[ChangedRow]


@dataclass(frozen=True)
class LengthSlice:
    """The rows of `shortest` to `longest` tokens: both models' accuracy, rows fixed and broken."""

    shortest: int
    longest: int
    n: int
    baseline: float
    adapted: float
    fixed: int
    broken: int


@dataclass(frozen=True)
class Paired:
    """A changed model against the unchanged one; `word` is the verdict's."""

    accuracy: float
    change: float
    fixed: int
    broken: int
    p_value: float
    word: str


def paired(before: Tensor, after: Tensor, labels: Tensor) -> Paired:
    """Test two models on the same rows. Shape: before, after (n, C) logits, labels (n,)."""
    old, new = measure(before, labels).accuracy, measure(after, labels).accuracy
    test = mcnemar(correct(before, labels), correct(after, labels))
    return Paired(new, new - old, **vars(test), word=word_of(test))


def judge(baseline: Metrics, adapted: Metrics, test: McNemar, accuracy: Interval) -> Verdict:
    """Return `better` or `worse` in accuracy if McNemar's exact p is below 0.05, else `not shown`.

    "Not shown" is not "equal": the interval says which differences these rows can't exclude.
    """
    word = word_of(test)
    return Verdict(
        word,
        f"{CLAIMS[word]}: accuracy {baseline.accuracy:.4f} -> {adapted.accuracy:.4f} on {baseline.n:,} rows, "
        f"a change of {accuracy.value:+.4f} ({CONFIDENCE:.0%} interval {accuracy.low:+.4f} to {accuracy.high:+.4f}).",
    )


def word_of(test: McNemar) -> str:
    """Return `better` or `worse` if the exact p is below 0.05, else `not shown`."""
    if test.p_value >= SIGNIFICANCE:
        return NOT_SHOWN
    return BETTER if test.fixed > test.broken else WORSE


def require(word: str, requirement: str) -> None:
    """Check that the verdict's word meets the requirement, `better` or `not_worse`.

    Raises:
        ConfigError: it does not, or there is no such requirement.
    """
    if requirement not in REQUIREMENTS:
        raise ConfigError(f"found {requirement!r}", where="--require", expected=" or ".join(REQUIREMENTS))
    if word not in REQUIREMENTS[requirement]:
        expected = " or ".join(REQUIREMENTS[requirement])
        raise ConfigError(f"the verdict is {word!r}", where="--require", expected=expected)


def changed_rows(
    before: Tensor, after: Tensor, labels: Tensor, names: Sequence[str], *, texts: Sequence[str] | None = None
) -> ChangedRows:
    """Return the first 1,000 rows that are fixed, and the first 1,000 that are broken.

    Shape: before, after (n, C) logits, labels (n,), C names, n texts.
    """
    _check_count(texts, labels, "texts")
    old, new = before.argmax(-1), after.argmax(-1)

    def row(i: int) -> ChangedRow:
        """Describe row i."""
        label, first, second = (names[int(ids[i])] for ids in (labels, old, new))
        return ChangedRow(i, label, first, second, texts[i] if texts else None)

    def listed(changed: Tensor) -> list[ChangedRow]:
        """Describe the first rows that are true."""
        return [row(i) for i in changed.nonzero().flatten().tolist()[:MOST_LISTED]]

    return ChangedRows(**{kind: listed(rows) for kind, rows in _changes(before, after, labels).items()})


def changed_by_class(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, list[int]]:
    """Count the `fixed` and the `broken` rows of each class. Shape: C numbers each."""
    changes = _changes(before, after, labels)
    return {kind: labels[rows].bincount(minlength=before.shape[-1]).tolist() for kind, rows in changes.items()}


def length_slices(before: Tensor, after: Tensor, labels: Tensor, lengths: Tensor) -> list[LengthSlice]:
    """Return up to four slices from short to long, cut at the quartiles of the lengths.

    Rows of one length are in one slice. Shape: before, after (n, C) logits, labels and lengths (n,).
    """
    _check_count(lengths, labels, "lengths")
    changes = _changes(before, after, labels)
    cuts = torch.quantile(lengths.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    number = torch.bucketize(lengths.double(), cuts)
    slices = []
    for rows in (number == i for i in sorted(set(number.tolist()))):
        shortest, longest = int(lengths[rows].min()), int(lengths[rows].max())
        old, new = (correct(logits[rows], labels[rows]).double().mean().item() for logits in (before, after))
        counts = {kind: int(changed[rows].sum()) for kind, changed in changes.items()}
        slices.append(LengthSlice(shortest, longest, int(rows.sum()), old, new, **counts))
    return slices


def _changes(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return which rows are `fixed` and which are `broken`. Shape: (n,) bool each."""
    old, new = correct(before, labels), correct(after, labels)
    return {"fixed": new & ~old, "broken": old & ~new}


def _check_count(values: Sequence[str] | Tensor | None, labels: Tensor, kind: str) -> None:
    if values is not None and len(values) != len(labels):
        raise DataError(f"{len(values)} {kind} for {len(labels)} rows", where="report")
