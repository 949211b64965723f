"""The work of every contender: the same model, rows, adapter and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lora_scratch.adapter import LoRAConfig
from lora_scratch.data import Encoded, Example, Splits
from lora_scratch.errors import ConfigError
from lora_scratch.model.base import Base
from lora_scratch.runs import (
    DataOptions,
    ModelOptions,
    encode_rows,
    fitting_rows,
    open_base,
    open_splits,
    resolve_adapter,
)
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.options import flag
from lora_scratch.runtime.precision import Precision, resolve_precision
from lora_scratch.tasks import REGRESSION, Task, make_task, task_of
from lora_scratch.training import TrainingConfig

from . import emotion_shape

SHAPE = "distilbert-base-shape"
# First steps of a training, which are not timed. A CPU lays out its weights in the first. A GPU
# records a graph of every width, and its loop reads twenty steps at a time: the time of a reading
# is shared by steps that had more to do.
WARM_STEPS = {"cpu": 1, "cuda": 100}
OF_SHAPE = f"folder or hub name of an encoder, `demo`, or {SHAPE}: its size, random weights"
OF_ROWS = f"any source that train.py takes, or {emotion_shape.NAME}: made-up rows of its lengths"


@dataclass
class BenchmarkModel(ModelOptions):
    """Which pretrained classifier."""

    model: str | None = flag(SHAPE, OF_SHAPE)


@dataclass
class BenchmarkRows(DataOptions):
    """Which rows."""

    dataset: str | None = flag(emotion_shape.NAME, OF_ROWS)
    standardize: bool = flag(False, "give the numbers of a regression mean 0 and deviation 1 over the training rows")


@dataclass(frozen=True)
class Work:
    """A model, its rows, its adapter, and the settings of its training.

    Args:
        sets: the rows of `splits` as token ids, by split.
        steps: optimizer steps of a timing.
    """

    base: Base
    splits: Splits
    sets: dict[str, Encoded]
    adapter: LoRAConfig
    training: TrainingConfig
    steps: int

    @property
    def task(self) -> Task:
        """What is predicted; nothing is fitted to validation rows yet."""
        return task_of(self.base.model)

    @property
    def device(self) -> torch.device:
        """The device that the work is done on."""
        return resolve_device(self.training.device)

    @property
    def warm_steps(self) -> int:
        """Optimizer steps before those that are timed."""
        return WARM_STEPS[self.device.type]

    @property
    def timed_rows(self) -> Encoded:
        """The training rows, repeated if they are too few for the warm and the timed steps."""
        rows = self.sets["train"]
        needed = (self.warm_steps + self.steps) * self.training.batch_size
        return repeat_rows(rows, max(needed, len(rows)))

    @property
    def longest_rows(self) -> Encoded:
        """The batch that takes the most memory, padded or not."""
        rows = self.sets["train"]
        longest = rows.lengths.argsort(descending=True)[: self.training.batch_size]
        return rows.select(longest.tolist())

    def precision(self, name: str) -> Precision:
        """Return the precision of that name on the device of the work."""
        return resolve_precision(name, self.device)


def open_work(
    model: ModelOptions,
    data: BenchmarkRows,
    adapter: LoRAConfig,
    training: TrainingConfig,
    *,
    steps: int,
) -> Work:
    """Load the model, and tokenize the rows. This is not timed.

    Raises:
        ConfigError: steps below 1. DataError, ModelError: something can't be opened.
    """
    if steps < 1:
        raise ConfigError(f"found {steps}", where="--steps", expected="at least 1")
    splits = _open_rows(data, seed=training.seed)
    splits = standardized(splits) if data.standardize else splits
    base = open_sized(str(model.model), splits.labels, task=splits.task)
    sets = encode_splits(splits, base, max_tokens=fitting_rows(data, base).max_tokens)
    return Work(base, splits, sets, resolve_adapter(base, adapter), training, steps)


def open_sized(name: str, labels: tuple[str, ...], *, task: str) -> Base:
    """Return the classifier that `name` stands for; for SHAPE, one of that size."""
    base = shaped_base(labels) if name == SHAPE else open_base(name, labels=labels, task=task)
    base.model.config.problem_type = make_task(task, labels).problem_type  # so Trainer takes this loss
    return base


def shaped_base(labels: tuple[str, ...], **sizes: int) -> Base:
    """Return a DistilBERT with random weights and the demo's tokenizer.

    Args:
        sizes: settings of DistilBertConfig; without them, those of distilbert-base-uncased.
    """
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from lora_scratch.demo.tokenizer import demo_tokenizer

    names = dict(enumerate(labels))
    numbers = {label: number for number, label in names.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DistilBertConfig(id2label=names, label2id=numbers, **sizes)
        model = DistilBertForSequenceClassification(config)
    return Base(model.eval(), demo_tokenizer(), SHAPE, ())


def encode_splits(splits: Splits, base: Base, *, max_tokens: int) -> dict[str, Encoded]:
    """Return the rows of every split as token ids."""
    rows = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: encode_rows(part, base, max_tokens=max_tokens) for name, part in rows.items()}


def repeat_rows(rows: Encoded, count: int) -> Encoded:
    """Return `count` rows, from the start again where there are too few."""
    return rows.select([row % len(rows) for row in range(count)])


def limit_rows(splits: Splits, *, train: int | None, evaluation: int | None) -> Splits:
    """Return only the first rows of each split; None for all."""
    return replace(
        splits,
        train=splits.train[:train],
        validation=splits.validation[:evaluation],
        test=splits.test[:evaluation],
    )


def standardized(splits: Splits) -> Splits:
    """Return the rows of a regression with labels of mean 0 and deviation 1 over the training rows.

    Correlations are the same for both. A head that starts at 0 need not learn the mean first.

    Raises:
        ConfigError: the labels are no numbers.
    """
    if splits.task != REGRESSION:
        raise ConfigError(f"the task is {splits.task}", where="--standardize", expected=REGRESSION)
    known = torch.tensor([row.label for row in splits.train], dtype=torch.float64)
    mean, deviation = known.mean().item(), known.std().item()

    def scaled(rows: Sequence[Example]) -> tuple[Example, ...]:
        """Return the rows with scaled labels."""
        return tuple(replace(row, label=(float(row.label) - mean) / deviation) for row in rows)  # type: ignore[arg-type]

    return replace(
        splits,
        train=scaled(splits.train),
        validation=scaled(splits.validation),
        test=scaled(splits.test),
    )


def _open_rows(data: DataOptions, *, seed: int) -> Splits:
    if data.dataset != emotion_shape.NAME:
        return open_splits(data, seed=seed)
    splits = emotion_shape.emotion_shaped_splits(seed=seed)
    return limit_rows(splits, train=data.limit_train, evaluation=data.limit_eval)
