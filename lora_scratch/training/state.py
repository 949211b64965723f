"""Everything that changes while a run trains, and its form in a checkpoint.

The position is two numbers: `epoch` (finished epochs) and `stepper.step` (optimizer steps). The
batches (data/batches.py) and the learning rate follow from it. A validation that is due after a step
is done before a checkpoint of that step. The rest is kept: trained tensors, moments, scale, counters,
the best tensors and the random number generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import CheckpointError
from ..layers import AdapterLayer
from ..runtime.distributed import is_main
from ..runtime.random_state import random_state, random_state_fault, set_random_state
from ..tasks import Metrics
from .log import MetricsLog
from .margins import Margins
from .objective import quality
from .state_check import check_moments, check_tensors, check_values
from .step import Stepper

POSITION = ("epoch", "stale")
COUNTERS = ("examples", "tokens", "skipped", "seconds", "cpu_seconds", "best_step")


class TrainingState:
    """Model, optimizer and counters of one run.

    `best` is None before the first validation; `stale` counts the validations since the best one.
    """

    def __init__(self, model: nn.Module, stepper: Stepper, log: MetricsLog, margins: Margins) -> None:
        self.model, self.stepper, self.log, self.margins = model, stepper, log, margins
        self.epoch = self.stale = self.examples = self.tokens = self.skipped = self.best_step = 0
        self.seconds = self.cpu_seconds = 0.0
        self.best: Metrics | None = None
        self.best_tensors: dict[str, Tensor] = {}

    def keep_if_best(self, metrics: Metrics) -> bool:
        """Keep the trained tensors if they are the best: by --best_by, then by the lower loss."""
        best_by = self.stepper.config.best_by
        if self.best is not None and quality(metrics, best_by) <= quality(self.best, best_by):
            self.stale += 1
            return False
        self.best, self.best_step, self.stale = metrics, self.stepper.step, 0
        self.best_tensors = {name: p.detach().clone() for name, p in _trained(self.model).items()}
        return True

    @torch.no_grad()
    def restore_best(self) -> None:
        """Load the best tensors into the model."""
        for name, tensor in self.best_tensors.items():
            self.model.get_parameter(name).copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and JSON values by name."""
        return {
            **{name: getattr(self, name) for name in (*POSITION, *COUNTERS)},
            "best": None if self.best is None else asdict(self.best),
            "log_bytes": self.log.position(),
            "path": self.stepper.path.choices(),
            **_prefixed("best_tensors", self.best_tensors),
            **_prefixed("model", changing_tensors(self.model)),
            **_prefixed("stepper", self.stepper.state_dict()),
            **_prefixed("margins", self.margins.state_dict()),
            **_prefixed("random", random_state()),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load `state` into a model as it was before its training.

        Raises:
            CheckpointError: the model trains other tensors, or values are out of their range; all are
                listed, and nothing is changed.
        """
        tensors, present = _under("model", state), changing_tensors(self.model)
        best, trained = _under("best_tensors", state), _trained(self.model)
        self._check(state, present, trained)
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        self.stepper.load_state_dict(_under("stepper", state))
        for name in (*POSITION, *COUNTERS):
            setattr(self, name, state[name])
        self.best = None if state["best"] is None else self.stepper.task.metrics_type(**state["best"])
        self.best_tensors = {name: tensor.to(present[name].device) for name, tensor in best.items()}
        if is_main():  # the main process saved its own sums; the means of the others start again
            self.margins.load_state_dict(_under("margins", state))
        self.log.rewind(state["log_bytes"])
        set_random_state(_under("random", state))

    def _check(self, state: Mapping[str, Any], present: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
        stepper, config = self.stepper, self.stepper.config
        check_tensors(_under("model", state), present, part="model")
        check_values(
            state,
            _under("stepper", state),
            metrics=stepper.task.metrics_type,
            steps=stepper.total_steps,
            epochs=config.epochs,
            scales=stepper.scaler.is_enabled(),
        )
        check_tensors(_under("best_tensors", state), {} if state["best"] is None else trained, part="best tensors")
        check_tensors(_under("margins", state), self.margins.state_dict(), part="margins")
        check_moments(_under("stepper", state), trained)
        if fault := random_state_fault(_under("random", state)):
            raise CheckpointError(fault, where="checkpoint, random numbers", expected="states of the generators")


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return trained tensors, buffers of adapter layers (layers/offset.py), running statistics."""
    buffers = {
        f"{name}.{key}": buffer
        for name, module in model.named_modules()
        if isinstance(module, AdapterLayer | _NormBase)
        for key, buffer in module.named_buffers(recurse=False)
    }
    return {**_trained(model), **buffers}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{prefix}/"
    return {name.removeprefix(start): v for name, v in state.items() if name.startswith(start)}
