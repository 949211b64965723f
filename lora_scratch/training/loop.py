"""The training loop: epochs of length-aware batches, an optimizer step for each group, the best adapter by validation.

fit the head to the frozen features, if asked to (probe_init.py)
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

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..adapter import check_trainable, is_adapted
from ..adapter.state import adapter_state
from ..data import Batch, Encoded, plan_batches, shard_batch
from ..errors import ConfigError, TrainingError
from ..evaluation import Metrics, Predictor, measure
from ..model.forward import forward_path
from ..model.path import ForwardPath
from ..runtime.device import resolve_device, use_device
from ..runtime.distributed import is_main, rank, world_size
from ..runtime.memory import peak_bytes, trim_heap
from ..runtime.precision import Precision, resolve_precision
from ..runtime.ranks import check_same_settings, check_same_tensors
from ..runtime.seeds import named_seed, seed_everything
from .checkpoint import Checkpoints, share_state
from .config import PROBE, TrainingConfig
from .dynamics import Dynamics
from .interrupt import StopRequest, stop_request
from .log import MetricsLog
from .movement_check import STEPS, MovementCheck
from .probe_init import start_head
from .recorder import Recorder
from .saver import Saver
from .state import TrainingState
from .step import Stepper

READ_EVERY = {"cpu": 1, "cuda": 20}  # steps between two readings: each makes the host wait for the device


@dataclass(frozen=True)
class TrainResult:
    """What a training run did.

    Args:
        seconds, cpu_seconds: of this process, on all cores; the validations count.
        tokens: real ones, without padding.
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
    """Train what requires a gradient in `model`, in place. It ends with the tensors that were best on `validation`.

    Best is the highest validation accuracy, the lower loss among equals, measured after every epoch.

    Args:
        on_best: called with the metrics whenever a new best stands in the model, and once at the end, to save it.
        checkpoints: where the state is saved on the way. If there is one already, training goes on from the last:
            model, rows and config must be those of the run that wrote it, the model as before that training.

    Raises:
        Interrupted: a signal asked to stop, and the step before it is saved; only with `checkpoints`.
        CheckpointError: the last checkpoint is damaged, or of a model that trains other tensors.
        TrainingError: nothing to train, an adapter that does not move, frozen weights that do, losses that stay
            infinite.
    """
    check_trainable(model)
    _check_rows(train_set, validation)
    seed_everything(config.seed)
    precision = resolve_precision(config.precision, resolve_device(config.device))
    use_device(precision.device)
    _check_processes(model, train_set, validation, config, precision)
    model.to(precision.device)
    saved = share_state(checkpoints.load() if is_main() else None) if checkpoints else None
    listening = stop_request() if checkpoints else nullcontext(StopRequest())
    fast = forward_path(model, precision, plain=config.plain, choices=(saved or {}).get("path"))
    with fast as path, listening as stop:
        predictor = Predictor(model, precision, pad_token_id, plain=config.plain)
        loop = _Loop(model, train_set, validation, config, predictor=predictor, path=path)
        loop.report_to(log if is_main() else None, on_best if is_main() else None)  # process 0 writes
        loop.resume(saved, checkpoints, stop)
        return loop.run(show_progress=show_progress and is_main())


def _check_rows(train_set: Encoded, validation: Encoded) -> None:
    if not len(train_set) or not len(validation):
        raise TrainingError(
            f"{len(train_set)} training and {len(validation)} validation rows", expected="at least one of each"
        )


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


class _Loop:
    """One call of `train`: what it feeds to the stepper, and in which order."""

    def __init__(
        self,
        model: nn.Module,
        train_set: Encoded,
        validation: Encoded,
        config: TrainingConfig,
        *,
        predictor: Predictor,
        path: ForwardPath,
    ) -> None:
        self.model, self.validation, self.config = model, validation, config
        self.predictor, self.path = predictor, path
        self.device = predictor.precision.device
        self.train_set = train_set.to(self.device)
        self.steps_per_epoch = len(self._groups(epoch=0))
        total_steps = config.epochs * self.steps_per_epoch
        self.stepper = Stepper(model, config, precision=predictor.precision, total_steps=total_steps, path=path)
        self.dynamics = Dynamics(model, self.stepper)
        self.movement: MovementCheck | None = MovementCheck(model)
        self.most_tokens = 0  # of a step so far

    def report_to(self, log: MetricsLog | None, on_best: Callable[[Metrics], object] | None) -> None:
        """Say where the events go, and what is called with every new best."""
        self.log, self.on_best = log or MetricsLog(), on_best or (lambda _: None)

    def resume(self, saved: Mapping[str, Any] | None, checkpoints: Checkpoints | None, stop: StopRequest) -> None:
        """Put the state of the last checkpoint back, if there is one."""
        self.state = TrainingState(self.model, self.stepper, self.log)
        if saved is not None:
            self.state.load_state_dict(saved)
        elif checkpoints:
            self.log.rewind(0)  # the lines of a run that was killed before its first checkpoint
        if self.stepper.step - self.state.skipped >= STEPS:
            self.movement = None  # checked before that checkpoint was written
        self.recorder = Recorder(self.state, self.dynamics, read_every=READ_EVERY[self.device.type])
        self.saver = Saver(self.recorder, checkpoints, stop)

    def run(self, *, show_progress: bool) -> TrainResult:
        """Train the epochs that are left, then put the best tensors back into the model."""
        with self.recorder.running(show_progress=show_progress):
            if not self.stepper.step and self.config.head_start == PROBE:
                self._start_head()
            while self.state.epoch < self.config.epochs:
                self._epoch()
                self._validate()
        self.state.restore_best()
        self.model.eval()
        assert self.state.best is not None, "no epoch was validated"  # noqa: S101
        self.on_best(self.state.best)  # once more: a kill while the file is replaced may have taken it away
        self.recorder.read_clocks()
        return self._result(self.state.best)

    def _result(self, best: Metrics) -> TrainResult:
        state = self.state
        return TrainResult(
            best=best,
            best_step=state.best_step,
            steps=self.stepper.step,
            skipped=state.skipped,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
            examples=state.examples,
            tokens=state.tokens,
            peak_memory_bytes=peak_bytes(self.device),
        )

    def _start_head(self) -> None:
        """Fit the head before the first step, so that every checkpoint holds the fitted head."""
        start = time.perf_counter()
        rows = start_head(self.predictor, self.train_set, seed=self.config.seed)
        self.log.write(event="head_start", step=0, epoch=0, rows=rows, seconds=time.perf_counter() - start)

    def _groups(self, epoch: int) -> list[list[list[int]]]:
        """The batches of an epoch, accumulation_steps to a group: one optimizer step each."""
        config = self.config
        plan = plan_batches(self.train_set.lengths, batch_size=config.batch_size, seed=config.seed, epoch=epoch)
        size = config.accumulation_steps
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    def _epoch(self) -> None:
        """Take the steps of this epoch that are left."""
        self.model.train()
        done = self.stepper.step - self.state.epoch * self.steps_per_epoch
        for group in self._groups(self.state.epoch)[done:]:
            self._step(group)
            due = self.saver.saves_steps
            if due or self.movement is not None:
                self.recorder.read()
            self._check_movement()
            self.saver.save_or_stop(due=due)
        self.recorder.read()

    def _step(self, group: list[list[int]]) -> None:
        self.recorder.before_launch()
        rows = [row for batch in group for row in batch]
        tokens = int(self.train_set.lengths[rows].sum())
        self._make_room(tokens)
        self._seed_dropout()
        self.stepper.launch([self._batch(batch) for batch in group], rows=len(rows))
        self.recorder.after_launch(rows=len(rows), tokens=tokens)

    def _batch(self, rows: list[int]) -> Batch:
        """What this process does of the batch of these rows."""
        return shard_batch(
            self.train_set,
            rows,
            rank=rank(),
            world=world_size(),
            pad_token_id=self.predictor.pad_token_id,
            multiple=self.path.width_multiple,
        )

    def _seed_dropout(self) -> None:
        """Give every process a stream of its own, new at every step, so that a checkpoint holds none of them."""
        if world_size() > 1:
            seed_everything(named_seed(self.config.seed, f"dropout of step {self.stepper.step} in process {rank()}"))

    def _make_room(self, tokens: int) -> None:
        """Trim the heap before a step larger than any so far: its tensors do not fit what smaller steps freed."""
        if tokens > self.most_tokens:
            self.most_tokens = tokens
            trim_heap()

    def _check_movement(self) -> None:
        if self.movement is not None and self.stepper.step - self.state.skipped == STEPS:
            self.movement.check()
            self.movement = None

    def _validate(self) -> None:
        """Measure and keep the best. Only then is the epoch over."""
        metrics = measure(self.predictor.logits(self.validation), self.validation.labels)
        self.log.write(event="validation", step=self.stepper.step, epoch=self.state.epoch + 1, **asdict(metrics))
        if self.state.offer(metrics):
            self.on_best(metrics)
        self.state.epoch += 1
        self.saver.save_or_stop(due=self.saver.saves_epochs)
