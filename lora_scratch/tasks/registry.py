"""The tasks by name, and the task of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.labels import REGRESSION, SINGLE_LABEL
from ..errors import ConfigError
from .multi_label import MultiLabel
from .regression import Regression
from .single_label import SingleLabel
from .task import Task

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (SingleLabel, MultiLabel, Regression)}


def make_task(name: str, labels: Sequence[str]) -> Task:
    """Return the task of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"found {name!r}", where="--task", expected=" or ".join(TASKS))
    return TASKS[name](tuple(labels))


def task_name(config: Any) -> str:
    """Return the task that a config's `problem_type` names. Without one, as transformers: one output is a number."""
    names = {task.problem_type: name for name, task in TASKS.items()}
    return names.get(config.problem_type) or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def task_of(model: Any) -> Task:
    """Return the task of a model's config, with the labels of its `id2label`."""
    config = model.config
    return make_task(task_name(config), [str(config.id2label[index]) for index in range(config.num_labels)])
