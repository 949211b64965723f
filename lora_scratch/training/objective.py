r"""What a training minimizes, and the score that its best tensors have.

    loss of a step = Σ w · l / n        over the n rows of all micro-batches, processes and pieces

The divisor is the number of rows, not the sum of their weights. So a step is the same, however its
rows are split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..tasks import Metrics, Task
from ..tasks.metrics import LOWER_IS_BETTER
from .config import TrainingConfig


def training_task(task: Task, config: TrainingConfig, labels: Tensor) -> Task:
    """Return the task with the class weights and the label smoothing of the settings.

    Args:
        labels: of all training rows; `balanced` counts them.

    Raises:
        ConfigError: an unknown label, or a task without classes.
    """
    return task.weighted(config.weights_by_label, labels.cpu()).smoothed(config.label_smoothing)


def check_best_by(name: str | None, task: Task, labels: Tensor) -> None:
    """Check that the task has this score.

    Args:
        labels: of some rows.

    Raises:
        ConfigError: it has not; the message lists those there are.
    """
    if name is None:
        return
    labels = labels.cpu()
    scores = task.measure(torch.zeros(len(labels), len(task.labels)), labels).scores
    if name not in scores:
        raise ConfigError(f"there is no score {name!r}", where="--best_by", expected=f"one of {', '.join(scores)}")


def quality(metrics: Metrics, best_by: str | None) -> tuple[float, float]:
    """Return what is largest for the best tensors: the score by this name, then the lowest loss."""
    name = best_by or metrics.headline_name
    score = metrics.scores[name]
    return -score if name in LOWER_IS_BETTER else score, -metrics.loss
