"""One optimizer step, mixed precision by hand: the heart of training. `loop.py` decides what to feed it, and when to read.

Where torchrun started several processes, each has some of the rows. The gradients of adapter and head are summed over the
processes once a step, after the last micro-batch, in one message: all that travels, a megabyte or so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Batch
from ..errors import TrainingError
from ..model.forward import classify
from ..model.path import ForwardPath
from ..runtime.device import is_out_of_memory
from ..runtime.distributed import is_sharded, sum_over_processes
from ..runtime.precision import Precision
from .config import TrainingConfig
from .optimizer import build_optimizer
from .schedule import learning_rate_factor

COUNTERS = ("step", "skipped_in_a_row", "pieces")


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did: the mean loss over its rows, the gradient norm before clipping, the peak group's rate."""

    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: bool


class Stepper:
    """Model, optimizer and scaler, and the order in which they act: scale, backward, unscale, clip, step, update, zero."""

    def __init__(
        self, model: Any, config: TrainingConfig, *, precision: Precision, total_steps: int, path: ForwardPath | None = None
    ) -> None:
        self.model, self.config, self.precision, self.total_steps = model, config, precision, total_steps
        self.path = path or ForwardPath()
        self.optimizer: Any = build_optimizer(model, config)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = precision.scaler()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.step = 0
        self.skipped_in_a_row = 0
        self.pieces = 1  # that a batch goes through in; doubled when memory runs out
        self._unread: list[tuple[Tensor, float, list[Tensor]]] = []  # loss and norm, learning rate, rows

    def __call__(self, batches: Sequence[Batch], *, rows: int | None = None) -> StepReport:
        """`launch` a step and `read` what it did."""
        self.launch(batches, rows=rows)
        return self.read()[-1]

    def launch(self, batches: Sequence[Batch], *, rows: int | None = None) -> None:
        """One optimizer step over the rows of all micro-batches of all processes, each row with the same weight.

        Nothing here waits for the device, not even to find out whether the gradient is finite: on a GPU the host runs ahead.

        Args:
            batches: the micro-batches of this process.
            rows: how many rows all processes have together; those of `batches` if None.

        Raises:
            TrainingError: no memory even for one row.
        """
        rate = self._set_learning_rate()
        rows = rows or sum(len(batch.labels) for batch in batches)
        loss = self._sum_over_processes(self._accumulate(batches, rows))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        outcome = torch.stack([loss, norm])
        self.optimizer.found_inf = (~outcome.isfinite().all()).float()  # where it is 1, fused AdamW changes nothing
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.path.keeps_gradients)
        self.step += 1
        self._unread.append((outcome, rate, [batch.rows for batch in batches]))

    def read(self) -> list[StepReport]:
        """What the steps did that were launched since the last call. Here the host waits for the device, once for all.

        Raises:
            TrainingError: too many steps in a row without a finite loss and gradient.
        """
        unread, self._unread = self._unread, []
        outcomes = torch.stack([outcome for outcome, *_ in unread]).tolist() if unread else []
        reports = []
        for number, ((loss, norm), (_, rate, rows)) in enumerate(
            zip(outcomes, unread, strict=True), self.step - len(unread) + 1
        ):
            finite = math.isfinite(loss) and math.isfinite(norm)
            self._count(rows, finite=finite, step=number)
            reports.append(StepReport(loss, norm, rate, skipped=not finite))
        return reports

    def state_dict(self) -> dict[str, Any]:
        """Counters, the scaler's state, and AdamW's moments by parameter name. (Learning rates follow from the step.)"""
        moments = {
            f"{name}/{key}": value
            for name, p in self._named_parameters()
            for key, value in self.optimizer.state.get(p, {}).items()
        }
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {**counters, "scaler": self.scaler.state_dict(), **moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.scaler.load_state_dict(state["scaler"])
        for name, p in self._named_parameters():
            moments = {key.removeprefix(f"{name}/"): t for key, t in state.items() if key.startswith(f"{name}/")}
            if moments:  # a parameter that has had no gradient yet has none
                self.optimizer.state[p] = {key: tensor.to(p.device, copy=True) for key, tensor in moments.items()}

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _accumulate(self, batches: Sequence[Batch], rows: int) -> Tensor:
        """The mean loss, its gradient in the parameters. Out of memory: again with more room, to the same sum."""
        while True:
            try:
                losses = [self.backward(piece, rows) for batch in batches for piece in batch.chunk(self.pieces)]
                return torch.stack(losses).sum()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or any(is_sharded(p) for p in self.model.parameters()):
                    raise  # the processes of a sharded model go through it together: none of them can go again alone
                failure = error.with_traceback(None)  # which keeps the tensors of the failed pass alive
            self._make_room(failure, largest=max(len(batch.labels) for batch in batches))

    def _make_room(self, failure: BaseException, *, largest: int) -> None:
        """Free what the path keeps; if there is nothing, halve what runs at once."""
        where = f"step {self.step + 1}"
        if not self.path.free_memory(f"out of memory at {where}"):
            if self.pieces >= largest:
                message = "out of memory with one row at a time"
                raise TrainingError(message, where=where, remedy="lower --max_tokens") from failure
            self.pieces *= 2
            warnings.warn(
                f"out of memory at {where}: batches go through in {self.pieces} pieces now; the mean over "
                "their rows, and so the gradient, is the same",
                stacklevel=4,
            )
        self.optimizer.zero_grad(set_to_none=not self.path.keeps_gradients)
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()

    def backward(self, batch: Batch, rows: int) -> Tensor:
        """Add the gradients of a batch to the parameters and return its loss, over `rows` rows. Shape: -> ()."""
        return self.path.backward(self._backward, batch, rows)

    def _backward(self, batch: Batch, rows: int) -> Tensor:
        with self.precision.autocast():
            logits = classify(self.model, batch)  # (B, C)
        loss = F.cross_entropy(logits.float(), batch.labels, reduction="sum") / rows
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _sum_over_processes(self, loss: Tensor) -> Tensor:
        """Gradients of the sum, in place, and the summed loss. It comes before unscaling, so that all processes see the same
        infinities and take or skip the step together."""
        # the same model everywhere, so the same tensors are without a gradient everywhere
        sum_over_processes([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        return loss

    def _set_learning_rate(self) -> float:
        factor = learning_rate_factor(
            self.step,
            total_steps=self.total_steps,
            warmup_steps=round(self.config.warmup_ratio * self.total_steps),
            schedule=self.config.schedule,
        )
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        return self.config.learning_rate * factor

    def _count(self, batches: Sequence[Tensor], *, finite: bool, step: int) -> None:
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped:
            rows = torch.cat(list(batches)).tolist()
            raise TrainingError(
                f"loss or gradient was not finite {self.skipped_in_a_row} steps in a row, last on rows {rows[:8]} ...",
                where=f"step {step}",
                remedy="lower --learning_rate, or use --precision fp32",
            )
