"""A changed model against the model as it was, on the same rows, in one line."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .mcnemar import mcnemar
from .metrics import correct, measure
from .verdict import word_of


@dataclass(frozen=True)
class Paired:
    """The accuracy of the changed model, that minus the other's, the rows fixed and broken, McNemar's exact p, and the word.

    Args:
        word: `better`, `worse` or `not shown`, at p < 0.05.
    """

    accuracy: float
    change: float
    fixed: int
    broken: int
    p_value: float
    word: str


def paired(before: Tensor, after: Tensor, labels: Tensor) -> Paired:
    """Both models' logits for the same rows. Shape: before, after (n, C), labels (n,).

    Raises:
        DataError: no rows, logits that are not finite, or labels that do not fit.
    """
    was, now = measure(before, labels), measure(after, labels)
    test = mcnemar(correct(before, labels), correct(after, labels))
    return Paired(now.accuracy, now.accuracy - was.accuracy, test.fixed, test.broken, test.p_value, word_of(test))
