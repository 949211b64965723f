"""The verdict in words, the rows that were fixed and broken, and the score by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..tasks import Interval, Metrics, Task
from ..tasks.bootstrap import CONFIDENCE
from ..tasks.metrics import TITLES
from ..tasks.task import BETTER, NOT_SHOWN, WORSE

MOST_LISTED = 1000  # rows of each kind in a report
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
class PairedTest:
    """The task's test of two models on the same rows.

    Args:
        fixed, broken: rows whose answer became better, and worse.
    """

    title: str
    fixed: int
    broken: int
    p_value: float


@dataclass(frozen=True)
class Constant:
    """The rival that looks at no text, in words, its scores, and the verdict of the adapted model against it."""

    answer: str
    metrics: Metrics
    word: str


@dataclass(frozen=True)
class Leaked:
    """Test rows whose text stands in train too, and both models' headline score without them."""

    rows: int
    baseline: float
    adapted: float


@dataclass(frozen=True)
class ChangedRow:
    """A row whose answer changed for the better or the worse, counted from 0; its text if it is known."""

    row: int
    label: str
    before: str
    after: str
    text: str | None = None


@dataclass(frozen=True)
class ChangedRows:
    """The rows `fixed` (better than before) and `broken` (worse than before), in data-set order."""

    fixed: list[ChangedRow]
    broken: list[ChangedRow]


@dataclass(frozen=True)
class LengthSlice:
    """The rows of `shortest` to `longest` tokens: both models' headline score, rows fixed and broken."""

    shortest: int
    longest: int
    n: int
    baseline: float
    adapted: float
    fixed: int
    broken: int


def against_constant(task: Task, adapted: Tensor, labels: Tensor) -> Constant:
    """Compare the adapted model with the best answer that looks at no text. Shape: adapted (n, C) logits."""
    answer, logits = task.constant(labels)
    return Constant(answer, task.measure(logits, labels), task.paired(logits, adapted, labels).word)


def without_leaked_rows(task: Task, before: Tensor, after: Tensor, labels: Tensor, kept: Sequence[int]) -> Leaked | None:
    """Measure both models on the rows `kept`. None if that is all of them, or none.

    Shape: before, after (n, C) logits, labels as the task has them.
    """
    if not kept or len(kept) == len(labels):
        return None
    old, new = (task.measure(logits[kept], labels[kept]).headline for logits in (before, after))
    return Leaked(len(labels) - len(kept), old, new)


def judge(baseline: Metrics, adapted: Metrics, word: str, change: Interval, constant: Constant | None = None) -> Verdict:
    """Return the verdict: the word of the paired test, but `better` only if the constant answer is beaten too.

    "Not shown" is not "equal": the interval says which differences these rows can't exclude.
    """
    name = TITLES[adapted.headline_name]
    figures = (
        f"{name} {baseline.headline:.4f} -> {adapted.headline:.4f} on {baseline.n:,} rows, "
        f"a change of {change.value:+.4f} ({CONFIDENCE:.0%} interval {change.low:+.4f} to {change.high:+.4f})."
    )
    if word == BETTER and change.high < 0:
        claim = f"No difference is shown: the paired test says {word}, but the {name} became worse"
        return Verdict(NOT_SHOWN, f"{claim}: {figures}")
    if word == WORSE and change.low > 0:
        return Verdict(WORSE, f"{CLAIMS[WORSE]} in the paired test, though its {name} is higher: {figures}")
    if word == BETTER and constant is not None and constant.word != BETTER:
        claim = f"The adapted model is not shown to be better than an answer that reads no text, {constant.answer}"
        return Verdict(NOT_SHOWN, f"{claim} ({name} {constant.metrics.headline:.4f}): {figures}")
    return Verdict(word, f"{CLAIMS[word]}: {figures}")


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
    task: Task, before: Tensor, after: Tensor, labels: Tensor, *, texts: Sequence[str] | None = None
) -> ChangedRows:
    """Return the first 1,000 rows that are fixed, and the first 1,000 that are broken.

    Shape: before, after (n, C) logits, labels as the task has them, n texts.
    """
    _check_count(texts, labels, "texts")

    def row(i: int) -> ChangedRow:
        """Describe row i."""
        old, new = (task.named(task.answers(logits[i : i + 1])[0]) for logits in (before, after))
        return ChangedRow(i, task.truth(labels[i]), old, new, texts[i] if texts else None)

    def listed(changed: Tensor) -> list[ChangedRow]:
        """Describe the first rows that are true."""
        return [row(i) for i in changed.nonzero().flatten().tolist()[:MOST_LISTED]]

    fixed, broken = task.changes(before, after, labels)
    return ChangedRows(listed(fixed), listed(broken))


def length_slices(task: Task, before: Tensor, after: Tensor, labels: Tensor, lengths: Tensor) -> list[LengthSlice]:
    """Return up to four slices from short to long, cut at the quartiles of the lengths.

    Rows of one length are in one slice. Shape: before, after (n, C) logits, lengths (n,).
    """
    _check_count(lengths, labels, "lengths")
    fixed, broken = task.changes(before, after, labels)
    cuts = torch.quantile(lengths.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    number = torch.bucketize(lengths.double(), cuts)
    slices = []
    for rows in (number == i for i in sorted(set(number.tolist()))):
        counts: dict[str, Any] = {"shortest": int(lengths[rows].min()), "longest": int(lengths[rows].max())}
        counts |= {"fixed": int(fixed[rows].sum()), "broken": int(broken[rows].sum())}
        old, new = (task.measure(logits[rows], labels[rows]).headline for logits in (before, after))
        slices.append(LengthSlice(n=int(rows.sum()), baseline=old, adapted=new, **counts))
    return slices


def _check_count(values: Sequence[str] | Tensor | None, labels: Tensor, kind: str) -> None:
    if values is not None and len(values) != len(labels):
        raise DataError(f"{len(values)} {kind} for {len(labels)} rows", where="report")
