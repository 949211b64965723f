"""Tokens a second against PEFT + Trainer, a whole training, and prediction against the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from lora_scratch.commands.benchmarks.acceptance.finding import Finding
from lora_scratch.commands.benchmarks.acceptance.setup import SMALL, Setup
from lora_scratch.commands.benchmarks.contenders import CONTENDERS
from lora_scratch.commands.benchmarks.emotion_shape import LABELS, emotion_shaped_splits
from lora_scratch.commands.benchmarks.peer import sorted_together
from lora_scratch.commands.benchmarks.prediction import measure_prediction
from lora_scratch.commands.benchmarks.watch import Timing
from lora_scratch.commands.benchmarks.whole_job import measure_job
from lora_scratch.commands.benchmarks.work import SHAPE, BenchmarkModel, BenchmarkRows, Work, open_sized, open_work

from lora_scratch.adapter import LoRAConfig
from lora_scratch.data import Encoded
from lora_scratch.model import Base
from lora_scratch.runs import encode_rows, resolve_adapter
from lora_scratch.training import TrainingConfig

OURS, BEST, SHIPPED = "ours-bf16", "peft-best", "peft"
# Optimizer steps that are not timed: ours records its graphs in them, Trainer fills the allocator's cache.
WARM_STEPS = {OURS: 100, BEST: 20, SHIPPED: 20}
SECONDS = {OURS: 6.0, BEST: 10.0, SHIPPED: 8.0}  # of timed steps, at least
LEAST_ROWS, LEAST_BATCHES = 16_000, 40  # of an epoch: as many rows as the emotion data has
TEXTS = 2000
MAX_TOKENS = 128
PEER_PACKAGES = ("peft", "accelerate")


def speed(setup: Setup, *, batch_size: int, small_batch_size: int) -> Finding:
    """Real tokens a second of ours and of PEFT + Trainer at its best and as shipped, at DistilBERT's size."""
    size = setup.choose(batch_size, small_batch_size)
    found, skipped = _of_each(setup, (OURS, BEST, SHIPPED), lambda name: _tokens_per_second(setup, name, size))
    ratios = {f"against_{name}": found[OURS] / found[name] for name in (BEST, SHIPPED) if name in found}
    words = [f"{name} {value:,.0f} tokens/s" for name, value in found.items()]
    words += [f"{value:.2f} times {name.removeprefix('against_')}" for name, value in ratios.items()]
    line = setup.choose("", f"small form on a CPU, batch {size}: ") + ", ".join(words)
    return Finding(line, figures={**found, **ratios}, skipped=skipped)


def prediction(setup: Setup) -> Finding:
    """Texts a second of ours and of `transformers.pipeline`, and the share of equal labels."""
    count = setup.choose(TEXTS, 16)
    names = (OURS, "pipeline")
    found = {name: measure_prediction(name, _work(setup, 16), count=count, adapter=None) for name in names}
    speeds = {name: each["texts_per_second"] for name, each in found.items()}
    pairs = list(zip(*(each["labels"] for each in found.values()), strict=True))
    agreement = sum(one == other for one, other in pairs) / len(pairs)
    ratio = speeds[OURS] / speeds["pipeline"]
    shown = ", ".join(f"{name} {value:,.0f} texts/s" for name, value in speeds.items())
    line = f"{shown}, {ratio:.2f} times the pipeline; {agreement:.1%} equal labels"
    figures = {**speeds, "against_pipeline": ratio, "agreement": agreement}
    return Finding(setup.choose("", "small form on a CPU: ") + line, figures=figures)


def whole_training(setup: Setup) -> Finding:
    """The named model on the named rows to the end: three epochs, then the test metrics."""
    training = TrainingConfig(learning_rate=2e-3, device=str(setup.device), epochs=setup.choose(3, 1))
    limit = setup.choose(None, 16)
    rows = BenchmarkRows(dataset=setup.dataset, limit_train=limit, limit_eval=limit)
    work = open_work(BenchmarkModel(model=setup.model), rows, LoRAConfig(), training, steps=1)
    found = measure_job(OURS, work)
    words = f"test accuracy {found['accuracy']:.4f}, macro-F1 {found['macro_f1']:.4f} after {found['seconds']:.1f} s"
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return Finding(setup.choose("", "small form on a CPU: ") + words, figures=numbers)


def lacks_inputs(setup: Setup) -> str:
    """Why there is nothing to train on; empty if model and rows are named."""
    return "" if setup.model and setup.dataset else "no --model and --dataset"


def missing_packages(name: str) -> list[str]:
    """The packages that a contender needs and that are not installed."""
    return [package for package in PEER_PACKAGES if find_spec(package) is None] if name.startswith("peft") else []


def _of_each(setup: Setup, names: Sequence[str], measure: Callable[[str], float]) -> tuple[Mapping[str, float], list[str]]:
    """What `measure` finds of each that can run here, and a line for each that can't."""
    found, skipped = {}, []
    for name in names:
        missing = missing_packages(name)
        if missing:
            skipped.append(f"{name}: {', '.join(missing)} not installed")
            continue
        found[name] = measure(name)
        setup.free_memory()
    return found, skipped


def _tokens_per_second(setup: Setup, name: str, batch_size: int) -> float:
    """Over enough steps for a fair sample of Trainer's grouping, and at least SECONDS."""
    work, contender = _work(setup, batch_size), CONTENDERS[name]
    rows = work.sets["train"]
    sample = sorted_together(len(rows), batch_size) if contender.by_length else 1
    steps, seconds = setup.choose((sample, SECONDS[name]), (2, 0.0))
    clock = Timing(steps, seconds, lambda: 0, warm=setup.choose(WARM_STEPS[name], 1))
    contender.train(contender.build(work), work, rows, clock)
    return clock.tokens / clock.seconds


def _work(setup: Setup, batch_size: int) -> Work:
    """Emotion-shaped rows for a fresh model of DistilBERT's size."""
    base = _small_base(LABELS) if setup.is_small else open_sized(SHAPE, LABELS)
    splits = emotion_shaped_splits()
    if setup.is_small:
        splits = replace(splits, train=splits.train[:64], validation=splits.validation[:8], test=splits.test[:32])
    few = replace(splits, validation=splits.validation[:8])
    rows = {"train": few.train, "validation": few.validation, "test": few.test}
    sets = {name: encode_rows(each, base, max_tokens=MAX_TOKENS) for name, each in rows.items()}
    if not setup.is_small:
        sets["train"] = _repeated(sets["train"], max(LEAST_ROWS, LEAST_BATCHES * batch_size))
    training = TrainingConfig(batch_size=batch_size, epochs=100, device=str(setup.device))
    return Work(base, splits, sets, resolve_adapter(base, LoRAConfig()), training, steps=1)


def _repeated(rows: Encoded, count: int) -> Encoded:
    """`count` rows, from the start again where there are too few."""
    return rows.select([row % len(rows) for row in range(count)])


def _small_base(labels: tuple[str, ...]) -> Base:
    """A classifier that a CPU trains in a moment, with the tokenizer of the demo."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from lora_scratch.demo.tokenizer import demo_tokenizer

    tokenizer: Any = demo_tokenizer()
    names = dict(enumerate(labels))
    numbers = {label: number for number, label in names.items()}
    config = DistilBertConfig(vocab_size=len(tokenizer), id2label=names, label2id=numbers, **SMALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Base(DistilBertForSequenceClassification(config).eval(), tokenizer, "small", ())
