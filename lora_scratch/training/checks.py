"""What is checked of a training: before it the rows and that all processes have one job, after it that a step counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from ..adapter import is_adapted
from ..adapter.state import adapter_state
from ..data import Encoded
from ..errors import ConfigError, TrainingError
from ..runtime.distributed import world_size
from ..runtime.ranks import check_same_settings, check_same_tensors
from .config import TrainingConfig


def check_rows(train_set: Encoded, validation: Encoded) -> None:
    """Check that there are rows. Raise TrainingError otherwise."""
    if not len(train_set) or not len(validation):
        problem = f"{len(train_set)} training and {len(validation)} validation rows"
        raise TrainingError(problem, expected="at least one of each")


def check_trained(*, steps: int, skipped: int) -> None:
    """Check that a step has changed something. Raise TrainingError if no loss or gradient was finite."""
    if skipped == steps:
        problem = f"no loss or gradient was finite in {steps} steps, so nothing was trained"
        raise TrainingError(problem, where="train", remedy="lower --learning_rate or --alpha, or use --precision fp32")


def check_processes(model: nn.Module, config: TrainingConfig, dtype: str, **rows: Encoded) -> None:
    """Check that every process has a row of each batch, and the same settings, rows and model.

    Raises:
        ConfigError: otherwise. WorldError: a process is gone.
    """
    if config.batch_size < world_size():
        problem = f"a batch of {config.batch_size} rows for {world_size()} processes"
        raise ConfigError(problem, where="--batch_size", expected=f"at least {world_size()}")
    flags = asdict(config) | (asdict(adapter_state(model).config) if is_adapted(model) else {})
    settings: dict[str, Any] = {f"--{name}": value for name, value in flags.items()}
    settings |= {"the compute dtype": dtype, "torch": torch.__version__}
    check_same_settings(settings)
    for name, split in rows.items():
        tensors = {"tokens": split.tokens, "offsets": split.offsets, "labels": split.labels}
        check_same_tensors(f"the {name} rows", tensors)
    check_same_tensors("the model", model.state_dict())
