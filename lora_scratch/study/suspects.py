r"""Rank the labels that may be wrong, by a regression that did not see the row it judges.

The rows of all splits are cut into five parts. The regression that judges a part is fitted to the
features of the other four. Rows with the same text are in the same part.

    t_k    mean p_k of the rows with label k                        what the regression usually gives that label
    suspect if the likeliest k with p_k ≥ t_k is not the label y    score = p_k - p_y
    scores: suspect if |y - z| is above 3 standard deviations       score = that number of deviations

Of several labels each is judged for itself, present or absent, and the largest score counts. To drop
every label is suggested only if some rows have none: else the regression just does not know.

Source: Northcutt et al. 2021, Confident Learning, arXiv:1911.00068, section 3 (confident joint), and
its ranking by normalized margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.examples import Example, Label
from ..data.overlap import same_rows
from ..errors import DataError
from ..runtime.seeds import named_generator
from ..tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

FOLDS = 5
LEAST_ROWS = 2 * FOLDS
CHOICE_ROWS = 2048  # rows on which one of several kinds of features is chosen
DEVIATIONS = 3.0  # of a score from the regression's: about 3 rows in 1,000 by chance


@dataclass(frozen=True)
class Suspect:
    """A row whose label may be wrong.

    Args:
        row: its number among the rows that were given.
        suggested: what the regression would say.
        score: how sure that is; see above.
    """

    row: int
    label: str
    suggested: str
    score: float


def rank_suspects(rows: Sequence[Example], features: Sequence[Tensor], task: Task, *, progress: str = "") -> list[Suspect]:
    """Return the rows whose label may be wrong, the surest first.

    Shape: features (n, d) each: several kinds of the same rows, for example of the first token and the mean.

    Args:
        progress: the text of the progress bar; no bar if empty.

    Raises:
        DataError: fewer than 10 rows.
    """
    if len(rows) < LEAST_ROWS:
        raise DataError(f"{len(rows)} rows", where="suspect labels", expected=f"at least {LEAST_ROWS}")
    labels = task.tensor([row.label for row in rows])
    logits = _held_out_logits(features, labels, task, _folds(rows), progress)
    suspects = RULES[task.name](logits.double(), labels, task)
    return sorted(suspects, key=lambda suspect: (-suspect.score, suspect.row))


def _held_out_logits(features: Sequence[Tensor], labels: Tensor, task: Task, folds: Tensor, progress: str) -> Tensor:
    """Return the logits of every row by the regression that did not see it. Shape: (n, C)."""
    sample = torch.randperm(len(labels), generator=named_generator(0, "suspects: features"))[:CHOICE_ROWS]
    kind, _ = task.fit_linear([x[sample] for x in features], labels[sample])
    parts: list[tuple[Tensor, Tensor]] = []
    for fold in tqdm(range(FOLDS), desc=progress, disable=not progress):
        rest, own = folds != fold, folds == fold
        _, linear = task.fit_linear([features[kind][rest]], labels[rest])
        parts.append((own.nonzero().flatten(), linear(features[kind][own])))
    rows, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return logits[rows.argsort()]


def _folds(rows: Sequence[Example]) -> Tensor:
    """Return the part of every row: equal shares of every label, and one part for all copies of a text. Shape: (n,)."""
    shuffled = torch.randperm(len(rows), generator=named_generator(0, "suspects: folds")).tolist()
    by_label = sorted(shuffled, key=lambda number: _sortable(rows[number].label))
    folds = torch.empty(len(rows), dtype=torch.int64)
    folds[by_label] = torch.arange(len(rows)) % FOLDS
    for copies in same_rows(rows):
        folds[copies] = int(folds[copies[0]])
    return folds


def _sortable(label: Label) -> tuple[float, ...]:
    return label if isinstance(label, tuple) else (label,)


def _classes(logits: Tensor, labels: Tensor, task: Task) -> Iterable[Suspect]:
    p = logits.softmax(-1)  # (n, C)
    own = p.gather(1, labels[:, None]).squeeze(1)  # (n,)
    usual = torch.tensor([_mean(own[labels == label]) for label in range(p.shape[1])], dtype=p.dtype)
    confident = p.where(p >= usual, -1.0)
    score, suggested = confident.max(-1)
    for row in ((score > own) & (suggested != labels)).nonzero().flatten().tolist():
        names = task.labels[int(labels[row])], task.labels[int(suggested[row])]
        yield Suspect(row, *names, float(score[row] - own[row]))


def _several(logits: Tensor, labels: Tensor, task: Task) -> Iterable[Suspect]:
    p, truth = logits.sigmoid(), labels.bool()  # (n, C)
    other = p.where(~truth, 1 - p)  # probability that the label is to be changed
    present, absent = (_column_means(p, truth), _column_means(1 - p, ~truth))
    usual = torch.where(truth, absent, present)
    changed = (other >= usual) & (other > 0.5)
    score = (2 * other - 1).where(changed, 0.0).amax(-1)
    suggested = truth ^ changed
    possible = suggested.any(-1) | bool((~truth.any(-1)).any())
    for row in (changed.any(-1) & possible).nonzero().flatten().tolist():
        yield Suspect(row, task.truth(labels[row]), task.truth(suggested[row].double()), float(score[row]))


def _scores(logits: Tensor, labels: Tensor, task: Task) -> Iterable[Suspect]:
    predicted = logits[:, 0].clamp(float(labels.min()), float(labels.max()))
    residuals = labels.double() - predicted
    deviations = residuals.abs() / residuals.std().clamp_min(1e-12)
    for row in (deviations > DEVIATIONS).nonzero().flatten().tolist():
        yield Suspect(row, f"{float(labels[row]):g}", f"{float(predicted[row]):.3g}", float(deviations[row]))


def _mean(values: Tensor) -> float:
    """Return the mean; for a class without rows infinity, so that it is never suggested."""
    return values.mean().item() if len(values) else float("inf")


def _column_means(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values under the mask, infinity where there are none. Shape: (n, C), (n, C) -> (C,)."""
    counts = mask.sum(0)
    return ((values * mask).sum(0) / counts.clamp_min(1)).where(counts > 0, float("inf"))


Rule = Callable[[Tensor, Tensor, Task], Iterable[Suspect]]
RULES: dict[str, Rule] = {SINGLE_LABEL: _classes, MULTI_LABEL: _several, REGRESSION: _scores}
