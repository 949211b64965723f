"""One optimizer step with mixed precision by hand.

If torchrun started several processes, each has some of the rows. The gradients of adapter and head
are summed over the processes once a step, after the last micro-batch, in one message.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data import Batch
from ..errors import TrainingError
from ..model.forward import classify
from ..model.path import ForwardPath
from ..runtime.device import is_out_of_memory
from ..runtime.distributed import is_sharded, sum_over_processes
from ..runtime.precision import Precision
from .config import TrainingConfig
from .optimizer import build_optimizer, make_recordable, set_rate
from .schedule import learning_rate_factor

if TYPE_CHECKING:
    from ..tasks import Task

COUNTERS = ("step", "skipped_in_a_row", "pieces")


@dataclass(frozen=True)
class StepReport:
    """Mean loss over the rows of a step, gradient norm before clipping, and learning rate of A."""

    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: bool


class Stepper:
    """Model, optimizer, scaler. A step is: scale, backward, unscale, clip, step, update, zero."""

    def __init__(
        self,
        model: Any,
        config: TrainingConfig,
        *,
        task: Task,
        precision: Precision,
        total_steps: int,
        path: ForwardPath | None = None,
    ) -> None:
        self.model, self.config, self.precision = model, config, precision
        self.total_steps, self.path = total_steps, path or ForwardPath()
        self.task = task.to(precision.device)
        self.optimizer: Any = build_optimizer(model, config)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = precision.scaler()
        self.parameters: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.path.records_steps:
            make_recordable(self.optimizer)
        self.step = 0
        self.skipped_in_a_row = 0
        self.pieces = 1  # of a batch, run one after another; doubled when memory is too small
        self.listener: Callable[[Batch, Tensor], object] | None = None  # is given every batch with its logits
        self.listener_tensors: Sequence[Tensor] = ()  # what the listener writes to
        self.is_measured: Callable[[], bool] = lambda: False  # whether hooks of the optimizer need this step
        self._unread: list[tuple[Tensor, float, list[Tensor]]] = []  # (loss and norm, rate, rows)

    def __call__(self, batches: Sequence[Batch], *, rows: int | None = None) -> StepReport:
        """Launch a step and read its report."""
        self.launch(batches, rows=rows)
        return self.read()[-1]

    def launch(self, batches: Sequence[Batch], *, rows: int | None = None) -> None:
        """Take one optimizer step. Every row of all micro-batches and processes counts equally.

        Nothing waits for the device, so on a GPU the host runs ahead.

        Args:
            batches: the micro-batches of this process.
            rows: rows of all processes together; those of `batches` if None.

        Raises:
            TrainingError: one row alone does not fit into memory.
        """
        rate = self._set_learning_rate()
        rows = rows or sum(len(batch.rows) for batch in batches)
        loss = self._accumulate(batches, rows)
        # a replay runs no hooks
        outcome = self.update(loss) if self.is_measured() else self.path.update(self, loss)
        self.step += 1
        self._unread.append((outcome, rate, [batch.rows for batch in batches]))

    def update(self, loss: Tensor) -> Tensor:
        """Change the parameters by the gradients. Return loss and gradient norm. Shape: () -> (2,)."""
        # sum first: an inf in one process then reaches all, and all skip the step
        sum_over_processes([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        outcome = torch.stack([loss, norm])
        self.optimizer.found_inf = (~outcome.isfinite().all()).float()  # 1: AdamW changes nothing
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._zero_gradients()
        return outcome

    def read(self) -> list[StepReport]:
        """Return the reports of the steps since the last call. The host waits for the device once.

        Raises:
            TrainingError: too many steps in a row without a finite loss and gradient.
        """
        unread, self._unread = self._unread, []
        outcomes = torch.stack([outcome for outcome, *_ in unread]).tolist() if unread else []
        reports = []
        pairs = zip(outcomes, unread, strict=True)
        for step, ((loss, norm), (_, rate, rows)) in enumerate(pairs, self.step - len(unread) + 1):
            finite = math.isfinite(loss) and math.isfinite(norm)
            self._count(rows, finite=finite, step=step)
            reports.append(StepReport(loss, norm, rate, skipped=not finite))
        return reports

    def state_dict(self) -> dict[str, Any]:
        """Return counters, the scaler's state, and AdamW's moments by parameter name."""
        moments = {
            f"{name}/{key}": value
            for name, p in self._named_parameters()
            for key, value in self.optimizer.state.get(p, {}).items()
        }
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {**counters, "scaler": self.scaler.state_dict(), **moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.scaler.load_state_dict(state["scaler"])
        for name, p in self._named_parameters():
            start = f"{name}/"
            moments = {
                key.removeprefix(start): tensor.to(p.device, copy=True)
                for key, tensor in state.items()
                if key.startswith(start)
            }
            if moments:  # none for a parameter that has had no gradient
                self.optimizer.state[p] = moments

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _accumulate(self, batches: Sequence[Batch], rows: int) -> Tensor:
        """Return the mean loss and accumulate its gradient. Out of memory: repeat with less."""
        while True:
            try:
                parts = [part for batch in batches for part in batch.chunk(self.pieces)]
                return torch.stack([self.backward(part, rows) for part in parts]).sum()
            except (RuntimeError, MemoryError) as error:
                sharded = any(is_sharded(p) for p in self.model.parameters())
                if sharded or not is_out_of_memory(error):
                    raise  # the processes of a sharded model run together: none can repeat alone
                failure = error.with_traceback(None)  # it would keep the failed pass's tensors alive
            self._use_less_memory(failure, largest=max(len(batch.rows) for batch in batches))

    def _use_less_memory(self, failure: BaseException, *, largest: int) -> None:
        """Free the memory of the path. If it has none, halve the rows that run at once."""
        where = f"step {self.step + 1}"
        if not self.path.free_memory(f"out of memory at {where}"):
            if self.pieces >= largest:
                problem, remedy = "out of memory with one row at a time", "lower --max_tokens"
                raise TrainingError(problem, where=where, remedy=remedy) from failure
            self.pieces *= 2
            message = f"out of memory at {where}: batches go through in {self.pieces} pieces now; "
            message += "the mean over their rows, and so the gradient, is the same"
            warnings.warn(message, stacklevel=4)
        self._zero_gradients()
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()

    def _zero_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=not self.path.records_steps)

    def backward(self, batch: Batch, rows: int) -> Tensor:
        """Add the gradients of a batch to the parameters. Return Σ loss / `rows`. Shape: -> ()."""
        return self.path.backward(self, batch, rows)

    def compute_gradients(self, batch: Batch, rows: int) -> Tensor:
        """Do the same by the model's code, not by a recording of it."""
        with self.precision.autocast():
            logits = classify(self.model, batch)  # (B, C)
        loss = self.task.loss(logits.float(), batch.labels) / rows
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.listener is not None:
            self.listener(batch, logits.detach())
        return loss.detach()

    def changing(self) -> list[Tensor]:
        """Return every tensor that a step changes, but for the gradients."""
        moments = [value for p in self.parameters for value in self.optimizer.state.get(p, {}).values()]
        scales = [x for x in vars(self.scaler).values() if isinstance(x, Tensor)]
        return [*self.parameters, *moments, *scales, *self.listener_tensors]

    def _set_learning_rate(self) -> float:
        total, schedule = self.total_steps, self.config.schedule
        warmup = round(self.config.warmup_ratio * total)
        factor = learning_rate_factor(self.step, total_steps=total, warmup_steps=warmup, schedule=schedule)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            set_rate(group, peak * factor)
        return self.config.learning_rate * factor

    def _count(self, batches: Sequence[Tensor], *, finite: bool, step: int) -> None:
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped:
            rows = torch.cat(list(batches))[:8].tolist()
            problem = f"loss or gradient was not finite {self.skipped_in_a_row} steps in a row"
            remedy = "lower --learning_rate, or use --precision fp32"
            problem += f", last on rows {rows} ..."
            raise TrainingError(problem, where=f"step {step}", remedy=remedy)
