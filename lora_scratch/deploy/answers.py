"""What is written of an answer: in JSON, or as columns of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..tasks import Task

Answer = dict[str, Any]
STRING, NUMBER, BOOLEAN, STRINGS, WHOLE = "string", "number", "boolean", "strings", "whole"
KINDS = {"label": STRING, "score": NUMBER, "labels": STRINGS}  # of the columns that tasks name


def finite_answers(task: Task, logits: Tensor) -> list[Answer | DataError]:
    """Return the task's answers, and an error for a row whose logits are not finite. Shape: (n, C) -> n."""
    finite = logits.isfinite().all(-1)  # (n,)
    answers = task.answers(torch.where(finite[:, None], logits, 0.0))
    return [answer if fine else not_finite() for answer, fine in zip(answers, finite.tolist(), strict=True)]


def not_finite() -> DataError:
    """Return the error of a row for which the model computes no numbers."""
    problem, remedy = "the model's outputs are NaN or infinite", "use --precision fp32, or train with a lower learning rate"
    return DataError(problem, expected="finite numbers", remedy=remedy)


def check_limits(top: int | None, abstain_below: float | None) -> None:
    """Raise ConfigError for a number that no answer can have."""
    if top is not None and top < 1:
        raise ConfigError(f"found {top}", where="--top", expected="at least 1")
    if abstain_below is not None and not 0 < abstain_below <= 1:
        raise ConfigError(f"found {abstain_below}", where="--abstain_below", expected="above 0, at most 1")


@dataclass(frozen=True)
class AnswerFormat:
    """How answers are written.

    Args:
        top: only so many scores, the highest first; all if None.
        abstain_below: the score below which there is no label.
        errors: whether rows can have an error in place of an answer.
        prefix: of the added names.
        multi_hot: in a table, a column of 0 and 1 for every label in place of one with a list, as in the training.

    Raises:
        ConfigError: a choice that the task does not have.
    """

    task: Task
    top: int | None = None
    abstain_below: float | None = None
    errors: bool = False
    prefix: str = ""
    multi_hot: bool = False

    def __post_init__(self) -> None:
        check_limits(self.top, self.abstain_below)
        wanted = {"--top": self.top is not None and "scores" not in self._example}
        wanted["--abstain_below"] = self.abstain_below is not None and not self.task.has_confidence
        for flag, missing in wanted.items():
            if missing:
                kind = self.task.name.replace("_", " ")
                problem = f"a {kind} adapter has no {'list of scores' if flag == '--top' else 'confidence in one label'}"
                raise ConfigError(problem, where=flag, remedy="leave it out")

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns that a table gets, and what they hold: string, number, boolean, strings or whole (0 or 1)."""
        names = {name: KINDS[name] for name in self._example if name != "scores"}
        if self.multi_hot:
            names = dict.fromkeys(self.task.labels, WHOLE)
        if self.abstain_below is not None:
            names["abstained"] = BOOLEAN
        for place in range(1, min(self.top or 0, len(self.task.labels)) + 1):
            self._add(names, {f"label_{place}": STRING, f"score_{place}": NUMBER}, flag="--top")
        if self.errors:
            self._add(names, {"error": STRING}, flag="--skip_bad_rows")
        return {self.prefix + name: kind for name, kind in names.items()}

    def as_json(self, answer: Answer | DataError, place: str) -> Answer:
        """Return what a JSON object gets; of an error the answer's first name, which is null, and the reason."""
        if isinstance(answer, DataError):
            nothing = {next(iter(self._example)): None, "error": _reason(answer, place)}
            return self._named(nothing)
        scores = {} if "scores" not in answer else {"scores": dict(self._highest(answer["scores"]))}
        return self._named({**self._decided(answer), **scores})

    def as_columns(self, answer: Answer | DataError, place: str) -> Answer:
        """Return the value of every column; None where there is none."""
        values: Answer = dict.fromkeys(self.columns)
        if isinstance(answer, DataError):
            return values | self._named({"error": _reason(answer, place)})
        top = self._highest(answer["scores"]) if self.top else []
        named = ({f"label_{place}": label, f"score_{place}": score} for place, (label, score) in enumerate(top, 1))
        decided = self._decided(answer)
        if self.multi_hot:
            decided = {label: int(label in decided["labels"]) for label in self.task.labels}
        return values | self._named(decided) | {k: v for pair in named for k, v in self._named(pair).items()}

    def _add(self, names: dict[str, str], added: Mapping[str, str], *, flag: str) -> None:
        """Add columns of a flag. Raises ConfigError if a label has the same name; --prefix would rename both."""
        if taken := [name for name in added if name in names]:
            problem = f"a label and an added column are both {taken[0]!r}"
            raise ConfigError(problem, where="--output", remedy=f"write to a .jsonl file, or leave {flag} out")
        names |= added

    @cached_property
    def _example(self) -> Answer:
        return self.task.answers(torch.zeros(1, len(self.task.labels)))[0]

    def _decided(self, answer: Answer) -> Answer:
        """Return the answer without its scores; below the limit without its label too."""
        kept = {name: value for name, value in answer.items() if name != "scores"}
        if self.abstain_below is None:
            return kept
        abstained = answer["score"] < self.abstain_below
        return {**kept, "label": None if abstained else answer["label"], "abstained": abstained}

    def _highest(self, scores: Mapping[str, float]) -> list[tuple[str, float]]:
        if self.top is None:
            return list(scores.items())
        return sorted(scores.items(), key=lambda entry: -entry[1])[: self.top]

    def _named(self, values: Answer) -> Answer:
        return {self.prefix + name: value for name, value in values.items()}


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinity are null, dates and decimals text.

    Raises:
        DataError: bytes, which JSON can't hold.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, bytes):
        remedy = "write to a .parquet file, or leave the column out"
        raise DataError("a column holds bytes", expected="texts, numbers, lists", remedy=remedy)
    if value is None or isinstance(value, str | bool | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _reason(error: DataError, place: str) -> str:
    return f"{error.where or place}: {error.found}"
