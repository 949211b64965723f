"""The work that every contender does: the same model, rows, adapter and settings, opened anew in each process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lora_scratch.commands.benchmarks import emotion_shape

from lora_scratch.adapter import LoRAConfig
from lora_scratch.data import Encoded, Splits
from lora_scratch.errors import ConfigError
from lora_scratch.model import Base
from lora_scratch.runs import DataOptions, ModelOptions, encode_rows, open_base, open_splits, resolve_adapter
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import Precision, resolve_precision
from lora_scratch.training import TrainingConfig

SHAPE = "distilbert-base-shape"
# Of a training, before those that are timed. A CPU lays out its weights in the first. A GPU records a graph of every width,
# and its loop reads twenty steps at a time, so that the time of a reading is shared by steps that had more to do.
WARM_STEPS = {"cpu": 1, "cuda": 100}


def _flag(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass
class BenchmarkModel(ModelOptions):
    """Which pretrained classifier."""

    model: str | None = _flag(SHAPE, f"folder or hub name of an encoder, `demo`, or {SHAPE}: its size, random weights")


@dataclass
class BenchmarkRows(DataOptions):
    """Which rows."""

    dataset: str | None = _flag(
        emotion_shape.NAME, f"any source that train.py takes, or {emotion_shape.NAME}: made-up rows of its lengths"
    )


@dataclass(frozen=True)
class Work:
    """What is trained, on what, and how.

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
    def device(self) -> torch.device:
        """Where the work is done."""
        return resolve_device(self.training.device)

    @property
    def warm_steps(self) -> int:
        """Optimizer steps before those that are timed."""
        return WARM_STEPS[self.device.type]

    @property
    def timed_rows(self) -> Encoded:
        """The training rows, from the start again where they are too few for the warm and the timed steps."""
        rows, count = self.sets["train"], (self.warm_steps + self.steps) * self.training.batch_size
        return rows.select([row % len(rows) for row in range(max(count, len(rows)))])

    @property
    def longest_rows(self) -> Encoded:
        """The batch that takes the most memory, padded or not."""
        rows = self.sets["train"]
        return rows.select(rows.lengths.argsort(descending=True)[: self.training.batch_size].tolist())

    def precision(self, name: str) -> Precision:
        """The precision of that name on the device of the work."""
        return resolve_precision(name, self.device)


def is_default_work(model: ModelOptions, data: DataOptions, adapter: LoRAConfig, training: TrainingConfig) -> bool:
    """Whether this is the work that the targets were set for; threads and seed are free."""
    settings = TrainingConfig(threads=training.threads, seed=training.seed)
    defaults = (BenchmarkModel(), BenchmarkRows(), LoRAConfig(), settings)
    return (model, data, adapter, training) == defaults


def open_work(model: ModelOptions, data: DataOptions, adapter: LoRAConfig, training: TrainingConfig, *, steps: int) -> Work:
    """Load and tokenize; not part of any timing.

    Raises:
        ConfigError: steps below 1. DataError, ModelError: what can't be opened.
    """
    if steps < 1:
        raise ConfigError(f"found {steps}", where="--steps", expected="at least 1")
    if data.dataset == emotion_shape.NAME:
        splits = _limited(emotion_shape.emotion_shaped_splits(seed=training.seed), data)
    else:
        splits = open_splits(data, seed=training.seed)
    base = open_sized(str(model.model), splits.labels)
    rows = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    sets = {name: encode_rows(each, base, max_tokens=data.max_tokens) for name, each in rows.items()}
    return Work(base, splits, sets, resolve_adapter(base, adapter), training, steps)


def open_sized(name: str, labels: tuple[str, ...]) -> Base:
    """The classifier that `name` stands for, with one output per label; SHAPE is one of that size with random weights."""
    return _shaped(labels) if name == SHAPE else open_base(name, labels=labels)


def _limited(splits: Splits, data: DataOptions) -> Splits:
    return replace(
        splits,
        train=splits.train[: data.limit_train],
        validation=splits.validation[: data.limit_eval],
        test=splits.test[: data.limit_eval],
    )


def _shaped(labels: tuple[str, ...]) -> Base:
    """A DistilBERT of the size of distilbert-base-uncased with random weights and the demo's tokenizer."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from lora_scratch.demo.tokenizer import demo_tokenizer

    names = dict(enumerate(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DistilBertConfig(id2label=names, label2id={label: number for number, label in names.items()})
        model = DistilBertForSequenceClassification(config)
    return Base(model.eval(), demo_tokenizer(), SHAPE, ())
