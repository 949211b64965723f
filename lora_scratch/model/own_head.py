"""Decide whether a base's own head answers the task, and in which order its outputs are.

A head is kept if it is of the same task and its labels are the task's: equal up to case and
punctuation, or numbers that count its outputs. Otherwise the head starts new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

UNNAMED = r"LABEL_\d+"  # transformers' name of a label that has none


def own_labels(config: Any) -> tuple[str, ...]:
    """Return the label names of a base's config, in the order of the outputs."""
    return tuple(str(config.id2label[index]) for index in sorted(config.id2label))


def head_order(own: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Return for every label the number of its output in the head for `own`, or None if that is not clear.

    A head of one unnamed output is a score, whatever the score's name.
    """
    if len(own) != len(labels):
        return None
    if len(own) == 1 and re.fullmatch(UNNAMED, own[0]):
        return [0]
    for spelling in (str, str.casefold, _words, _number):
        order = _matched(own, labels, spelling)
        if order is not None:
            return order
    return _counted(labels)


def _matched(own: Sequence[str], labels: Sequence[str], spelling: Callable[[str], str]) -> list[int] | None:
    """Return the order if every label is one of `own` in this spelling, and no two are the same."""
    spelled = {spelling(name): index for index, name in enumerate(own)}
    order = [spelled.get(spelling(label)) for label in labels]
    if None in order or len(set(order)) < len(own):
        return None
    return [index for index in order if index is not None]


def _words(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def _number(name: str) -> str:
    """Return the one number in a name, as in `LABEL_3` or `3 stars`, or the name itself."""
    numbers = re.findall(r"\d+", name)
    return str(int(numbers[0])) if len(numbers) == 1 and "-" not in name else name


def _counted(labels: Sequence[str]) -> list[int] | None:
    """Return the order of labels that are consecutive whole numbers, such as 0, 1 or -1, 0, 1."""
    if not all(re.fullmatch(r"-?\d+", label) for label in labels):
        return None
    numbers = [int(label) for label in labels]
    order = [number - min(numbers) for number in numbers]
    return order if sorted(order) == list(range(len(labels))) else None
