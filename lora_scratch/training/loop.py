"""The training loop: epochs of length-aware batches, an optimizer step for each group, the best adapter by validation.

fit the head to the frozen features, if asked to (head_start.py)
for every epoch:
    for every group of accumulation_steps batches:
        one optimizer step (step.py)
    measure on the validation rows; keep the tensors if they are the best so far
put the best tensors back

Where torchrun started several processes, each takes its share of every batch through its own copy of the model. They stay
together because they do the same with the same numbers: gradients (step.py) and validation logits (evaluation/predict.py)
are summed over the processes, the rest is computed in each. Process 0 writes.

On a GPU the host runs ahead: rows are on the device, and what the steps did is read every READ_EVERY steps.

Everything that changes on the way is in state.py. A checkpoint is that state in a folder (checkpoint.py), and a run with
checkpoints goes on from the last one as if it had never stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..adapter import check_trainable, is_adapted
from ..adapter.state import adapter_state
from ..data import Batch, Encoded, plan_batches, share
from ..errors import ConfigError, Interrupted, TrainingError
from ..evaluation import Metrics, measure, predict_logits
from ..runtime.agreement import check_same_settings, check_same_tensors
from ..runtime.device import peak_memory_bytes, resolve_device
from ..runtime.distributed import is_main, rank, sum_over_processes, world_size
from ..runtime.memory import give_back_freed
from ..runtime.precision import Precision, resolve_precision
from ..runtime.seeds import named_seed, seed_everything
from .checkpoint import Checkpoints, share_state
from .config import TrainingConfig
from .dynamics import Dynamics
from .fast import fast_path
from .graphs import WIDTH_MULTIPLE, CudaRecorder
from .guard import STEPS, MovementGuard
from .head_start import PROBE, start_head
from .interrupt import SIGNALS, StopRequest, stop_request
from .log import MetricsLog
from .state import TrainingState
from .step import Stepper, StepReport

READ_EVERY = {"cpu": 1, "cuda": 20}  # steps between two looks at what they did: each makes the host wait for the device


@dataclass(frozen=True)
class TrainResult:
    """What a training run did. `seconds` and `cpu_seconds` (of this process, on all cores) include the validations; `tokens`
    are real ones, without padding."""

    best: Metrics
    best_step: int
    steps: int
    skipped: int
    seconds: float
    cpu_seconds: float
    examples: int
    tokens: int
    peak_memory_bytes: int

    @property
    def examples_per_second(self) -> float:
        """Training rows a second."""
        return self.examples / self.seconds


def train(
    model: nn.Module,
    train_set: Encoded,
    validation: Encoded,
    config: TrainingConfig,
    *,
    pad_token_id: int,
    log: MetricsLog | None = None,
    on_best: Callable[[Metrics], object] | None = None,
    checkpoints: Checkpoints | None = None,
    show_progress: bool = True,
) -> TrainResult:
    """Train what requires a gradient in `model`, in place; it ends with the tensors that were best on `validation`.

    Best is the highest validation accuracy, the lower loss among equals, measured after every epoch.

    Args:
        on_best: called with the metrics whenever a new best stands in the model, and with the best at the end, to save it.
        checkpoints: where the state is saved on the way. If there is one already, training goes on from the last: model,
            rows and config have to be those of the run that wrote it, the model as it was before that training.

    Raises:
        Interrupted: a signal asked to stop, and there is a checkpoint of the step before; only with `checkpoints`.
        CheckpointError: the last checkpoint is damaged, or of a model that trains other tensors.
        TrainingError: nothing to train, an adapter that does not move, frozen weights that do, losses that stay infinite.
    """
    check_trainable(model)
    if not len(train_set) or not len(validation):
        raise TrainingError(
            f"{len(train_set)} training and {len(validation)} validation rows", expected="at least one of each"
        )
    seed_everything(config.seed)
    precision = resolve_precision(config.precision, resolve_device(config.device))
    _make_current(precision.device)
    _check_processes(model, train_set, validation, config, precision)
    model.to(precision.device)
    if not is_main():
        log = on_best = None  # process 0 writes
    run = _Run(model, train_set, validation, config, precision, pad_token_id, log or MetricsLog(), on_best, checkpoints)
    listening = stop_request() if checkpoints else nullcontext(StopRequest())
    with fast_path(model, precision, plain=config.plain), listening as stop:
        try:
            return run.run(stop, show_progress=show_progress and is_main())
        finally:
            run.stepper.drop_graphs()  # what is still referred to must not keep their memory


def _make_current(device: torch.device) -> None:
    """Let everything that names no device of its own, as a stream or a kernel, be on this GPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _check_processes(
    model: nn.Module, train_set: Encoded, validation: Encoded, config: TrainingConfig, precision: Precision
) -> None:
    if config.batch_size < world_size():
        raise ConfigError(
            f"a batch of {config.batch_size} rows for {world_size()} processes",
            where="--batch_size",
            expected=f"at least {world_size()}",
        )
    flags = {**asdict(config), **(asdict(adapter_state(model).config) if is_adapted(model) else {})}
    computed_in = {"the compute dtype": precision.name, "torch": torch.__version__}
    check_same_settings({**{f"--{name}": value for name, value in flags.items()}, **computed_in})
    for name, rows in (("training", train_set), ("validation", validation)):
        check_same_tensors(f"the {name} rows", {"tokens": rows.tokens, "offsets": rows.offsets, "labels": rows.labels})
    check_same_tensors("the model", model.state_dict())


class _Run:
    """One call of `train`: its state, and what it feeds to the stepper."""

    def __init__(
        self,
        model: nn.Module,
        train_set: Encoded,
        validation: Encoded,
        config: TrainingConfig,
        precision: Precision,
        pad_token_id: int,
        log: MetricsLog,
        on_best: Callable[[Metrics], object] | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.model, self.train_set, self.validation, self.config = model, train_set.to(precision.device), validation, config
        self.precision, self.pad_token_id, self.on_best, self.checkpoints = precision, pad_token_id, on_best, checkpoints
        self.steps_per_epoch = len(self._groups(epoch=0))
        self.stepper = Stepper(model, config, precision=precision, total_steps=config.epochs * self.steps_per_epoch)
        if precision.device.type == "cuda" and world_size() == 1 and not config.plain:
            self.stepper.use_graphs(CudaRecorder(precision.device))
        self.state = TrainingState(model, self.stepper, log)
        self.dynamics = Dynamics(model, self.stepper)
        self.guard: MovementGuard | None = MovementGuard(model)
        self.most_tokens = 0  # of a step so far
        self.unrecorded: list[dict[str, Any]] = []  # a record for every step whose report has not been read
        self.read_every = READ_EVERY[precision.device.type]
        saved = share_state(checkpoints.load() if is_main() else None) if checkpoints else None
        if saved is not None:
            self.state.load_state_dict(saved)
        elif checkpoints:
            log.rewind(0)  # what a run that was killed before its first checkpoint wrote
        if self.stepper.step - self.state.skipped >= STEPS:
            self.guard = None  # checked before that checkpoint was written

    def run(self, stop: StopRequest, *, show_progress: bool) -> TrainResult:
        """All epochs that are left, then the best tensors back in the model."""
        state, step = self.state, self.stepper
        self.stop, self.start = stop, time.perf_counter() - state.seconds
        self.cpu_start = time.process_time() - state.cpu_seconds
        with tqdm(
            total=step.total_steps, initial=step.step, desc="train", unit="step", disable=not show_progress
        ) as self.bar:
            if not step.step and self.config.head_start == PROBE:
                self._start_head()
            while state.epoch < self.config.epochs:
                self._epoch()
                self._validate()
        state.restore_best()
        self.model.eval()
        best = state.best
        if best is None:
            raise AssertionError("no epoch was validated")
        if self.on_best is not None:
            self.on_best(best)  # once more: a kill in the middle of replacing the file may have taken it away
        self._read_clocks()
        return TrainResult(
            best=best,
            best_step=state.best_step,
            steps=step.step,
            skipped=state.skipped,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
            examples=state.examples,
            tokens=state.tokens,
            peak_memory_bytes=peak_memory_bytes(self.precision.device),
        )

    def _start_head(self) -> None:
        """Before the first step, so that every checkpoint holds what came of it."""
        begun = time.perf_counter()
        walk: dict[str, Any] = {"precision": self.precision, "pad_token_id": self.pad_token_id}
        rows = start_head(self.model, self.train_set, seed=self.config.seed, **walk)
        self.state.log.write(event="head_start", step=0, epoch=0, rows=rows, seconds=time.perf_counter() - begun)

    def _groups(self, epoch: int) -> list[list[list[int]]]:
        plan = plan_batches(self.train_set.lengths, batch_size=self.config.batch_size, seed=self.config.seed, epoch=epoch)
        size = self.config.accumulation_steps
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    def _epoch(self) -> None:
        """The steps of the present epoch that are left."""
        self.model.train()
        done = self.stepper.step - self.state.epoch * self.steps_per_epoch
        for group in self._groups(self.state.epoch)[done:]:
            if not self.unrecorded:
                self.window = time.perf_counter()
            rows = [row for batch in group for row in batch]
            tokens = int(self.train_set.lengths[rows].sum())
            self._make_room(tokens)
            self._seed_dropout()
            self.stepper.launch([self._batch(batch) for batch in group], rows=len(rows))
            self.unrecorded.append({"rows": len(rows), "tokens": tokens})
            save_steps = self.checkpoints.save_steps if self.checkpoints else 0
            save = save_steps > 0 and self.stepper.step % save_steps == 0
            if save or self.guard is not None or len(self.unrecorded) >= self.read_every:
                self._record()
            self._check_movement()
            self._between_steps(save=save)
        self._record()

    def _between_steps(self, *, save: bool) -> None:
        """Save if it is time; if a signal has come, save and stop."""
        if self.checkpoints is None:
            return
        stop = self._asked_to_stop()
        if stop:
            self._record()
        if (save or stop) and is_main():
            self._read_clocks()
            self.checkpoints.save(self.stepper.step, self.state.state_dict())
        if stop:
            message = f"{stop.name}, saved after step {self.stepper.step:,} of {self.stepper.total_steps:,}"
            raise Interrupted(message, signal_number=stop)

    def _read_clocks(self) -> None:
        self.state.seconds = time.perf_counter() - self.start
        self.state.cpu_seconds = time.process_time() - self.cpu_start

    def _asked_to_stop(self) -> signal.Signals | None:
        """The signal that came, to whichever process: all have to stop after the same step."""
        if world_size() == 1:
            return self.stop.signal
        here = self.stop.signal or 0
        seen = torch.tensor([float(here == each) for each in SIGNALS])
        sum_over_processes([seen])
        return next((each for each, count in zip(SIGNALS, seen.tolist(), strict=True) if count), None)

    def _batch(self, rows: list[int]) -> Batch:
        """What this process has to do of the batch of these rows."""
        return share(
            self.train_set,
            rows,
            rank=rank(),
            world=world_size(),
            pad_token_id=self.pad_token_id,
            multiple=WIDTH_MULTIPLE if self.stepper.is_graphed else 1,
        )

    def _seed_dropout(self) -> None:
        """Several processes draw from streams of their own, new at every step: a checkpoint needs to hold none of them."""
        if world_size() > 1:
            seed_everything(named_seed(self.config.seed, f"dropout of step {self.stepper.step} in process {rank()}"))

    def _make_room(self, tokens: int) -> None:
        """Before a step larger than any so far: what smaller ones have freed lies in holes that its tensors don't fit."""
        if tokens > self.most_tokens:
            self.most_tokens = tokens
            give_back_freed()

    def _record(self) -> None:
        """Read what the latest steps did, count it and write a line for each; they share the time since the first."""
        records, self.unrecorded = self.unrecorded, []
        if not records:
            return
        first = self.stepper.step - len(records) + 1
        reports, measured = self.stepper.read(), self.dynamics.read()
        rate = sum(each["tokens"] for each in records) / (time.perf_counter() - self.window)  # tokens a second
        for step, (report, record) in enumerate(zip(reports, records, strict=True), first):
            self._record_step(step, report, rate, **record, **measured.get(step, {}))
        self.bar.update(len(records))

    def _record_step(self, step: int, report: StepReport, rate: float, *, rows: int, tokens: int, **figures: Any) -> None:
        state = self.state
        state.examples += rows
        state.tokens += tokens
        state.skipped += report.skipped
        state.log.write(
            event="step",
            step=step,
            epoch=state.epoch + 1,
            loss=report.loss,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens_per_second=rate,
            skipped=state.skipped,
            **figures,
        )
        self.bar.set_postfix_str(
            f"loss {report.loss:.3f}, lr {report.learning_rate:.1e}, {rate:,.0f} tokens/s", refresh=False
        )

    def _check_movement(self) -> None:
        if self.guard is not None and self.stepper.step - self.state.skipped == STEPS:
            self.guard.check()
            self.guard = None

    def _validate(self) -> None:
        """Measure, keep the best; only then is the epoch over."""
        logits = predict_logits(
            self.model,
            self.validation,
            precision=self.precision,
            pad_token_id=self.pad_token_id,
            plain=self.config.plain,
        )
        metrics = measure(logits, self.validation.labels)
        self.state.log.write(event="validation", step=self.stepper.step, epoch=self.state.epoch + 1, **asdict(metrics))
        if self.state.offer(metrics) and self.on_best is not None:
            self.on_best(metrics)
        self.state.epoch += 1
        self._between_steps(save=self.checkpoints is not None and not self.checkpoints.save_steps)
