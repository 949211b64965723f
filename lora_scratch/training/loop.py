"""The training loop.

fit the head to the frozen features, if asked to (probe_init.py)
for every epoch:
    for every group of accumulation_steps batches:
        one optimizer step (step.py)
        after the last group, or every evaluate_every steps:
            measure on the validation rows; keep the tensors if they are the best so far
put the best tensors back

If torchrun started several processes, each computes a part of every batch with its own copy of the
model. Gradients and validation logits are summed over the processes, so all copies stay equal.
Process 0 writes. A resumed run ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..adapter import check_trainable
from ..data import Batch, Encoded, plan_batches, shard_batch
from ..errors import LoraScratchError
from ..evaluation import Predictor
from ..model.forward import forward_path
from ..model.path import ForwardPath
from ..model.precision import family_precision
from ..runtime.device import resolve_device, use_device
from ..runtime.distributed import is_main, rank, world_size
from ..runtime.memory import peak_bytes
from ..runtime.precision import resolve_precision
from ..runtime.seeds import named_seed, seed_everything
from ..tasks import Metrics, Task, task_of
from .checkpoint import Checkpoints, share_state
from .checks import check_processes, check_rows, check_trained
from .config import AUTO, LOADED, TrainingConfig
from .dynamics import Dynamics
from .interrupt import StopRequest, stop_request
from .log import MetricsLog
from .margins import Margins
from .movement_check import CHECKED_STEP, MovementCheck
from .objective import check_best_by, training_task
from .probe_init import fit_head
from .recorder import Recorder
from .saver import Saver
from .state import COUNTERS, TrainingState
from .state_check import check_choices
from .step import Stepper

State = Mapping[str, Any] | None  # of a checkpoint

READ_EVERY = {"cpu": 1, "cuda": 20}  # steps between two readings: each makes the host wait


@dataclass(frozen=True)
class TrainResult:
    """The counters of a training run.

    Args:
        seconds, cpu_seconds: of this process, on all cores, with the validations.
        tokens: without padding.
        margins: the sums and counts of every training row's margin (margins.py).
    """

    best: Metrics
    best_step: int
    steps: int
    skipped: int
    seconds: float
    cpu_seconds: float
    examples: int
    tokens: int
    peak_memory_bytes: int
    margins: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

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
    task: Task | None = None,
    log: MetricsLog | None = None,
    on_best: Callable[[Metrics], object] | None = None,
    checkpoints: Checkpoints | None = None,
    show_progress: bool = True,
) -> TrainResult:
    """Train the tensors of `model` that require a gradient. At the end it holds the best ones.

    They have the best validation score (`best_by`, or the task's headline), of equal ones the lowest loss.

    Args:
        task: what is predicted; that of the model if None. The class weights and the label smoothing
            of `config` are added here.
        on_best: called after every new best and once at the end, to save the model.
        checkpoints: saves the state. If there is a checkpoint, training resumes from the last one;
            pass the model as it was before that training, and the same rows and config.

    Raises:
        Interrupted: a signal asked to stop, after saving; only with `checkpoints`.
        CheckpointError: the last checkpoint is damaged, or of a model that trains other tensors.
        ConfigError: the task has no such class weights or score.
        TrainingError: nothing to train, an adapter that does not move, frozen weights that do, or
            losses that stay infinite.
    """
    check_trainable(model)
    check_rows(train_set, validation)
    task = training_task(task or task_of(model), config, train_set.labels)
    check_best_by(config.best_by, task, validation.labels)
    seed_everything(config.seed)
    precision = family_precision(model, resolve_precision(config.precision, resolve_device(config.device)))
    use_device(precision.device)
    check_processes(model, config, precision.name, training=train_set, validation=validation)
    model.to(precision.device)
    saved = share_state(checkpoints.load() if is_main() else None) if checkpoints else None
    listening = stop_request() if checkpoints else nullcontext(StopRequest())
    chosen = check_choices(saved or {})
    with forward_path(model, precision, plain=config.plain, choices=chosen) as path, listening as stop:
        predictor = Predictor(model, precision, pad_token_id, plain=config.plain)
        own_log = (log if is_main() else None) or MetricsLog()
        loop = _Loop(model, train_set, validation, config, task, predictor, path, own_log)
        loop.on_best = (on_best if is_main() else None) or (lambda _: None)
        loop.resume(saved, checkpoints, stop)
        return loop.run(show_progress=show_progress and is_main())


@dataclass
class _Loop:
    """One call of `train`: gives the batches to the stepper, in order."""

    model: nn.Module
    train_set: Encoded
    validation: Encoded
    config: TrainingConfig
    task: Task
    predictor: Predictor
    path: ForwardPath
    log: MetricsLog

    def __post_init__(self) -> None:
        precision = self.predictor.precision
        self.train_set = self.train_set.to(precision.device)
        self.steps_per_epoch = len(self._groups(epoch=0))
        model, config, path = self.model, self.config, self.path
        steps = config.epochs * self.steps_per_epoch
        self.stepper = Stepper(model, config, task=self.task, precision=precision, total_steps=steps, path=path)
        self.margins = Margins(len(self.train_set), self.task, device=precision.device)
        self.stepper.listener = self.margins.listen
        self.stepper.listener_tensors = [*self.margins.state_dict().values()]
        self.dynamics = Dynamics(model, self.stepper)
        self.movement: MovementCheck | None = MovementCheck(model)
        self.on_best: Callable[[Metrics], object]

    def resume(self, saved: State, checkpoints: Checkpoints | None, stop: StopRequest) -> None:
        """Load the state of the last checkpoint, if there is one."""
        self.state = TrainingState(self.model, self.stepper, self.log, self.margins)
        if saved is not None:
            self.state.load_state_dict(saved)
        elif checkpoints:
            self.log.rewind(0)  # the lines of a run that was killed before its first checkpoint
        if self.stepper.step - self.state.skipped >= CHECKED_STEP:
            self.movement = None  # it was checked before that checkpoint
        read_every = READ_EVERY[self.predictor.precision.device.type]
        self.recorder = Recorder(self.state, self.dynamics, read_every=read_every)
        self.saver = Saver(self.recorder, checkpoints, stop)

    def run(self, *, show_progress: bool) -> TrainResult:
        """Train the remaining epochs, then load the best tensors into the model."""
        state = self.state
        with self.recorder.running(show_progress=show_progress):
            if not self.stepper.step and self.config.head_start != LOADED:
                self._fit_head()
            while not self._is_over:
                self._epoch()
        check_trained(steps=self.stepper.step, skipped=state.skipped)
        state.restore_best()
        self.model.eval()
        assert state.best is not None, "no epoch was validated"  # noqa: S101
        self.on_best(state.best)  # again: a kill while the file was replaced may have removed it
        self.recorder.read_clocks()
        counters = {name: getattr(state, name) for name in COUNTERS}
        peak = peak_bytes(self.predictor.precision.device)
        margins = self.margins.totals()
        return TrainResult(state.best, steps=self.stepper.step, peak_memory_bytes=peak, margins=margins, **counters)

    def _fit_head(self) -> None:
        """Fit the head before the first step, so that every checkpoint has the fitted head."""
        start = time.perf_counter()
        try:
            rows = fit_head(self.predictor, self.train_set, self.task, seed=self.config.seed)
        except LoraScratchError as error:
            if self.config.head_start != AUTO:
                raise
            warnings.warn(f"the head starts as loaded, without a fit: {error}", stacklevel=2)
            return
        seconds = time.perf_counter() - start
        self.log.write(event="head_start", step=0, epoch=0, rows=rows, seconds=seconds)

    def _groups(self, epoch: int) -> list[list[list[int]]]:
        """Return the batches of an epoch in groups, one optimizer step each."""
        lengths, config = self.train_set.lengths, self.config
        plan = plan_batches(lengths, batch_size=config.batch_size, seed=config.seed, epoch=epoch)
        size = config.accumulation_steps
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    @property
    def _is_over(self) -> bool:
        state, config = self.state, self.config
        return state.epoch == config.epochs or 0 < config.patience <= state.stale

    def _epoch(self) -> None:
        """Train the remaining steps of this epoch, with the validations that are due."""
        self.model.train()
        done = self.stepper.step - self.state.epoch * self.steps_per_epoch
        for group in self._groups(self.state.epoch)[done:]:
            self._step(group)
            ends = self.stepper.step % self.steps_per_epoch == 0
            due = self.saver.saves_steps or (ends and self.saver.saves_epochs)
            validates = self._validates(ends_epoch=ends)
            if due or ends or validates or self.movement is not None:
                self.recorder.read()
            self._check_movement()
            if validates:
                self._validate()
            self.state.epoch += ends
            self.saver.save_or_stop(due=due)
            if self._is_over:
                break

    def _validates(self, *, ends_epoch: bool) -> bool:
        """Return whether a validation is due after this step; one is due after the last."""
        step, every = self.stepper.step, self.config.evaluate_every
        return step == self.stepper.total_steps or (step % every == 0 if every else ends_epoch)

    def _step(self, group: list[list[int]]) -> None:
        self.recorder.before_launch()
        rows = [row for batch in group for row in batch]
        tokens = int(self.train_set.lengths[rows].sum())
        if world_size() > 1:  # masks differ between processes and need no state in a checkpoint
            name = f"dropout of step {self.stepper.step} in process {rank()}"
            seed_everything(named_seed(self.config.seed, name))
        self.stepper.launch([self._batch(batch) for batch in group], rows=len(rows))
        self.recorder.after_launch(rows=len(rows), tokens=tokens)

    def _batch(self, rows: list[int]) -> Batch:
        """Return this process's part of the batch of these rows."""
        if (own := self.path.batch(self.train_set, rows)) is not None:
            return own
        pad, multiple = self.predictor.pad_token_id, self.path.width_multiple
        part = {"rank": rank(), "world": world_size()}
        return shard_batch(self.train_set, rows, **part, pad_token_id=pad, multiple=multiple)

    def _check_movement(self) -> None:
        if self.movement is not None and self.stepper.step - self.state.skipped == CHECKED_STEP:
            self.movement.check()
            self.movement = None

    def _validate(self) -> None:
        """Measure, and keep the tensors if they are the best."""
        state, step = self.state, self.stepper.step
        logits, labels = self.predictor.logits(self.validation), self.validation.labels
        metrics = self.task.fitted(logits, labels).measure(logits, labels)
        self.log.write(event="validation", step=step, epoch=state.epoch + 1, **metrics.scores, n=metrics.n)
        if state.keep_if_best(metrics):
            self.on_best(metrics)
        elif self._is_over and step < self.stepper.total_steps:
            self._tell_stop(self.config.best_by or metrics.headline_name)

    def _tell_stop(self, score: str) -> None:
        """Say that the training stops, and how far the learning rate had fallen."""
        state, stepper = self.state, self.stepper
        rate = float(stepper.optimizer.param_groups[0]["lr"]) / stepper.peak_rates[0]
        self.log.write(event="stopped", step=stepper.step, epoch=state.epoch + 1, stale=state.stale, rate=rate)
        warnings.warn(
            f"stopped after step {stepper.step:,} of {stepper.total_steps:,}: no better {score} in {state.stale} "
            f"validations. The schedule was cut: the learning rate stood at {rate:.0%} of its peak. With fewer "
            f"--epochs it falls to its end.",
            stacklevel=2,
        )
