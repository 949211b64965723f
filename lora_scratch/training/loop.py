"""The training loop: epochs of length-aware batches, an optimizer step for each group, the best adapter by validation.

for every epoch:
    for every group of accumulation_steps batches:
        one optimizer step (step.py)
    measure on the validation rows; keep the tensors if they are the best so far
put the best tensors back
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..adapter import check_trainable
from ..data import Batch, Encoded, collate, plan_batches
from ..errors import TrainingError
from ..evaluation import Metrics, measure, predict_logits
from ..runtime.device import peak_memory_bytes, resolve_device
from ..runtime.precision import Precision, resolve_precision
from ..runtime.seeds import seed_everything
from .config import TrainingConfig
from .fast import fast_path
from .guard import STEPS, MovementGuard
from .log import MetricsLog
from .step import Stepper, StepReport


@dataclass(frozen=True)
class TrainResult:
    """What a training run did. `seconds` includes the validations; `tokens` are real ones, without padding."""

    best: Metrics
    best_step: int
    steps: int
    skipped: int
    seconds: float
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
    show_progress: bool = True,
) -> TrainResult:
    """Train what requires a gradient in `model`, in place; it ends with the tensors that were best on `validation`.

    Best is the highest validation accuracy, the lower loss among equals, measured after every epoch.

    Args:
        on_best: called with the metrics whenever a new best stands in the model, to save it.

    Raises:
        TrainingError: nothing to train, an adapter that does not move, frozen weights that do, gradients that stay infinite.
    """
    check_trainable(model)
    if not len(train_set) or not len(validation):
        raise TrainingError(
            f"{len(train_set)} training and {len(validation)} validation rows", expected="at least one of each"
        )
    seed_everything(config.seed)
    precision = resolve_precision(config.precision, resolve_device(config.device))
    model.to(precision.device)
    run = _Run(model, train_set, validation, config, precision, pad_token_id, log or MetricsLog(), on_best)
    with fast_path(model, precision, plain=config.plain):
        return run.run(show_progress=show_progress)


class _Run:
    """The state of one call of `train`."""

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
    ) -> None:
        self.model, self.train_set, self.validation, self.config = model, train_set, validation, config
        self.precision, self.pad_token_id, self.log, self.on_best = precision, pad_token_id, log, on_best
        self.steps_per_epoch = sum(1 for _ in self._groups(epoch=0))
        self.stepper = Stepper(model, config, precision=precision, total_steps=config.epochs * self.steps_per_epoch)
        self.guard: MovementGuard | None = MovementGuard(model)
        self.best = (Metrics(accuracy=-1.0, macro_f1=-1.0, loss=float("inf"), n=0), 0)  # worse than any
        self.best_tensors: dict[str, Tensor] = {}
        self.examples = self.tokens = self.skipped = 0

    def run(self, *, show_progress: bool) -> TrainResult:
        """All epochs, then the best tensors back in the model."""
        start = time.perf_counter()
        bar = tqdm(total=self.stepper.total_steps, desc="train", unit="step", disable=not show_progress)
        with bar:
            for epoch in range(self.config.epochs):
                self._epoch(epoch, bar)
                self._validate(epoch)
        self._restore_best()
        best, best_step = self.best
        return TrainResult(
            best=best,
            best_step=best_step,
            steps=self.stepper.step,
            skipped=self.skipped,
            seconds=time.perf_counter() - start,
            examples=self.examples,
            tokens=self.tokens,
            peak_memory_bytes=peak_memory_bytes(self.precision.device),
        )

    def _groups(self, epoch: int) -> Iterator[list[list[int]]]:
        plan = plan_batches(self.train_set.lengths, batch_size=self.config.batch_size, seed=self.config.seed, epoch=epoch)
        size = self.config.accumulation_steps
        return (plan[start : start + size] for start in range(0, len(plan), size))

    def _epoch(self, epoch: int, bar: tqdm[None]) -> None:
        self.model.train()
        for group in self._groups(epoch):
            start = time.perf_counter()
            report = self.stepper([self._batch(rows) for rows in group])
            rows = [row for batch in group for row in batch]
            tokens = int(self.train_set.lengths[rows].sum())
            self._record(report, epoch, rows=len(rows), tokens=tokens, seconds=time.perf_counter() - start, bar=bar)
            self._check_movement()

    def _batch(self, rows: list[int]) -> Batch:
        return collate(self.train_set, rows, pad_token_id=self.pad_token_id).to(self.precision.device)

    def _record(self, report: StepReport, epoch: int, *, rows: int, tokens: int, seconds: float, bar: tqdm[None]) -> None:
        self.examples += rows
        self.tokens += tokens
        self.skipped += report.skipped
        self.log.write(
            event="step",
            step=self.stepper.step,
            epoch=epoch + 1,
            loss=report.loss,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens_per_second=tokens / seconds,
            skipped=self.skipped,
        )
        bar.set_postfix_str(
            f"loss {report.loss:.3f}, lr {report.learning_rate:.1e}, {tokens / seconds:,.0f} tokens/s", refresh=False
        )
        bar.update()

    def _check_movement(self) -> None:
        if self.guard is not None and self.stepper.step - self.skipped == STEPS:
            self.guard.check()
            self.guard = None

    def _validate(self, epoch: int) -> None:
        logits = predict_logits(
            self.model,
            self.validation,
            precision=self.precision,
            pad_token_id=self.pad_token_id,
            plain=self.config.plain,
        )
        metrics = measure(logits, self.validation.labels)
        self.log.write(event="validation", step=self.stepper.step, epoch=epoch + 1, **asdict(metrics))
        if (metrics.accuracy, -metrics.loss) > (self.best[0].accuracy, -self.best[0].loss):
            self.best = (metrics, self.stepper.step)
            self.best_tensors = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
            if self.on_best is not None:
                self.on_best(metrics)

    @torch.no_grad()
    def _restore_best(self) -> None:
        for name, tensor in self.best_tensors.items():
            self.model.get_parameter(name).copy_(tensor)
        self.model.eval()
