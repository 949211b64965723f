"""Everything that changes while a run trains, in one place, and its form in a checkpoint.

Position is two numbers: `epoch`, epochs that are over with their validation, and `stepper.step`, optimizer steps. Which rows
come next follows from these, since the plan of batches is a pure function of seed and epoch (data/batches.py), and so does
the learning rate. What does not follow is kept: trained tensors, moments, scale, counters, the best so far, generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import CheckpointError
from ..evaluation import Metrics
from ..layers import AdapterLayer
from ..runtime.random_state import random_state, set_random_state
from .log import MetricsLog
from .step import Stepper

COUNTERS = ("epoch", "examples", "tokens", "skipped", "seconds", "cpu_seconds", "best_step")


class TrainingState:
    """Model, optimizer and counters of one run. `best` is None before the first validation."""

    def __init__(self, model: nn.Module, stepper: Stepper, log: MetricsLog) -> None:
        self.model, self.stepper, self.log = model, stepper, log
        self.epoch = self.examples = self.tokens = self.skipped = self.best_step = 0
        self.seconds = self.cpu_seconds = 0.0
        self.best: Metrics | None = None
        self.best_tensors: dict[str, Tensor] = {}

    def offer(self, metrics: Metrics) -> bool:
        """Remember the present tensors if they are the best: higher accuracy, lower loss among equals."""
        if self.best is not None and (metrics.accuracy, -metrics.loss) <= (self.best.accuracy, -self.best.loss):
            return False
        self.best, self.best_step = metrics, self.stepper.step
        self.best_tensors = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        return True

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best tensors into the model."""
        for name, tensor in self.best_tensors.items():
            self.model.get_parameter(name).copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON values by name."""
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "best": None if self.best is None else asdict(self.best),
            "log_bytes": self.log.position(),
            "path": self.stepper.path.choices(),
            **_prefixed("best_tensors", self.best_tensors),
            **_prefixed("model", changing_tensors(self.model)),
            **_prefixed("stepper", self.stepper.state_dict()),
            **_prefixed("random", random_state()),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, in a model that is as it was before its training began.

        Raises:
            CheckpointError: other tensors are trained here than there, listed; nothing has changed then.
        """
        tensors, present = _under("model", state), changing_tensors(self.model)
        _check_same(tensors, present)
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        self.stepper.load_state_dict(_under("stepper", state))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.best = None if state["best"] is None else Metrics(**state["best"])
        self.best_tensors = {name: t.to(present[name].device) for name, t in _under("best_tensors", state).items()}
        self.log.rewind(state["log_bytes"])
        set_random_state(_under("random", state))


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What is trained, the start that an adapter is measured from (layers/offset.py), and running statistics."""
    buffers = {
        f"{name}.{key}": buffer
        for name, module in model.named_modules()
        if isinstance(module, AdapterLayer | _NormBase)
        for key, buffer in module.named_buffers(recurse=False)
    }
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | buffers


def _check_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = [f"{name} is not in it" for name in expected if name not in found]
    problems += [f"{name} is not trained here" for name in sorted(found) if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, here {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            "; ".join(problems[:5]) + more, where="checkpoint", expected="the tensors that this model trains"
        )


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in state.items() if name.startswith(f"{prefix}/")}
