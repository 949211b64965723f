"""The tasks by name, and the task of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .multi_label import MultiLabel
from .regression import Regression
from .single_label import SingleLabel
from .task import Task

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (SingleLabel, MultiLabel, Regression)}
SINGLE_LABEL, MULTI_LABEL, REGRESSION = TASKS


def make_task(name: str, labels: Sequence[str]) -> Task:
    """Return the task of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"found {name!r}", where="--task", expected=" or ".join(TASKS))
    return TASKS[name](tuple(labels))


def task_of(model: Any) -> Task:
    """Return the task that a model's `config.problem_type` names, with the labels of its `id2label`.

    Without a problem_type: one output is a number, as for transformers; more are classes.
    """
    config = model.config
    labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    named = {task.problem_type: name for name, task in TASKS.items()}
    default = SINGLE_LABEL if len(labels) > 1 else REGRESSION
    return make_task(named.get(config.problem_type, default), labels)
