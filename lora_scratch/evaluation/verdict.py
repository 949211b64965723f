"""The answer in words, and where the difference is: rows fixed and broken, and slices by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .bootstrap import CONFIDENCE, Interval
from .mcnemar import McNemar
from .metrics import Metrics, correct

SIGNIFICANCE = 0.05
MOST_LISTED = 1000  # rows of each kind in a report; their number is McNemar's
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {"better": (BETTER,), "not_worse": (BETTER, NOT_SHOWN)}


@dataclass(frozen=True)
class Verdict:
    """`better`, `worse` or `not shown`, and the same as a sentence with its figures."""

    word: str
    sentence: str


@dataclass(frozen=True)
class ChangedRow:
    """A row that exactly one of the models has right, counted from 0; its text if it is known."""

    row: int
    label: str
    before: str
    after: str
    text: str | None = None


@dataclass(frozen=True)
class LengthSlice:
    """The rows of `shortest` to `longest` tokens: how many, the accuracy of both models, the rows fixed and broken."""

    shortest: int
    longest: int
    n: int
    baseline: float
    adapted: float
    fixed: int
    broken: int


def judge(baseline: Metrics, adapted: Metrics, test: McNemar, accuracy: Interval) -> Verdict:
    """Better or worse in accuracy if McNemar's exact p is below 0.05, else not shown at this size.

    "Not shown" is not "equal": the sentence gives the interval, which says what difference these rows can't exclude.
    """
    word = word_of(test)
    claim = {
        BETTER: "The adapted model is better than the frozen baseline",
        WORSE: "The adapted model is worse than the frozen baseline",
        NOT_SHOWN: "A difference between the adapted model and the frozen baseline is not shown at this size",
    }[word]
    return Verdict(
        word,
        f"{claim}: accuracy {baseline.accuracy:.4f} -> {adapted.accuracy:.4f} on {baseline.n:,} rows, "
        f"a change of {accuracy.value:+.4f} ({CONFIDENCE:.0%} interval {accuracy.low:+.4f} to {accuracy.high:+.4f}).",
    )


def word_of(test: McNemar) -> str:
    """`better` or `worse` if the exact p is below 0.05, else `not shown`."""
    if test.p_value >= SIGNIFICANCE:
        return NOT_SHOWN
    return BETTER if test.fixed > test.broken else WORSE


def require(verdict: str, requirement: str) -> None:
    """Nothing, if the verdict's word meets the requirement, `better` or `not_worse`.

    Raises:
        ConfigError: it does not, or there is no such requirement.
    """
    check_requirement(requirement)
    if verdict not in REQUIREMENTS[requirement]:
        raise ConfigError(f"the verdict is {verdict!r}", where="--require", expected=" or ".join(REQUIREMENTS[requirement]))


def check_requirement(requirement: str) -> None:
    """A ConfigError if there is no such requirement."""
    if requirement not in REQUIREMENTS:
        raise ConfigError(f"found {requirement!r}", where="--require", expected=" or ".join(REQUIREMENTS))


def changed_rows(before: Tensor, after: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, list[ChangedRow]]:
    """The first 1,000 rows `fixed` (wrong, then right) and `broken` (right, then wrong), in the order of the data set.

    Shape: before, after (n, C) logits, labels (n,), C names.
    """
    right, now_right = correct(before, labels), correct(after, labels)
    answers, now = before.argmax(-1).tolist(), after.argmax(-1).tolist()

    def listed(rows: Tensor) -> list[ChangedRow]:
        """The first of the rows that are true."""
        return [
            ChangedRow(i, names[int(labels[i])], names[answers[i]], names[now[i]])
            for i in rows.nonzero().flatten().tolist()[:MOST_LISTED]
        ]

    return {"fixed": listed(now_right & ~right), "broken": listed(right & ~now_right)}


def changed_by_class(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, list[int]]:
    """How many rows of each class are `fixed` and `broken`. Shape: before, after (n, C) logits, labels (n,) -> C numbers."""
    right, now_right = correct(before, labels), correct(after, labels)
    rows = {"fixed": now_right & ~right, "broken": right & ~now_right}
    return {kind: labels[each].bincount(minlength=before.shape[-1]).tolist() for kind, each in rows.items()}


def length_slices(before: Tensor, after: Tensor, labels: Tensor, lengths: Tensor) -> list[LengthSlice]:
    """Up to four slices from short to long, cut at the quartiles of the lengths; rows of one length stay together.

    Shape: before, after (n, C) logits, labels and lengths (n,).

    Raises:
        DataError: another number of lengths than of rows.
    """
    if len(lengths) != len(labels):
        raise DataError(f"{len(lengths)} lengths for {len(labels)} rows", where="report")
    right, now_right = correct(before, labels), correct(after, labels)
    cuts = torch.quantile(lengths.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    number = torch.bucketize(lengths.double(), cuts)
    return [
        LengthSlice(
            int(lengths[inside].min()),
            int(lengths[inside].max()),
            int(inside.sum()),
            right[inside].double().mean().item(),
            now_right[inside].double().mean().item(),
            int((now_right & ~right)[inside].sum()),
            int((right & ~now_right)[inside].sum()),
        )
        for inside in (number == i for i in sorted(set(number.tolist())))
    ]
