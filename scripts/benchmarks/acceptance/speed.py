"""Measures tokens/s against PEFT + Trainer, a whole training, and texts/s against the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from lora_scratch.adapter import LoRAConfig
from lora_scratch.demo.tokenizer import demo_tokenizer
from lora_scratch.runs import resolve_adapter
from lora_scratch.training import TrainingConfig

from ..contenders import CONTENDERS
from ..emotion_shape import LABELS, emotion_shaped_splits
from ..figures import share_equal
from ..machine import PEERS
from ..peer import sorted_together
from ..prediction import measure_prediction
from ..watch import Timing
from ..whole_job import measure_job
from ..work import (
    BenchmarkModel,
    BenchmarkRows,
    Work,
    encode_splits,
    limit_rows,
    open_work,
    repeat_rows,
    shaped_base,
)
from .finding import Finding
from .setup import SMALL, Setup

OURS, BEST, SHIPPED = "ours-bf16", "peft-best", "peft"
# Optimizer steps that are not timed: ours records its graphs, Trainer fills the allocator's cache.
WARM_STEPS = {OURS: 100, BEST: 20, SHIPPED: 20}
SECONDS = {OURS: 6.0, BEST: 10.0, SHIPPED: 8.0}  # of timed steps, at least
LEAST_ROWS, LEAST_BATCHES = 16_000, 40  # of an epoch: as many rows as the emotion data has
TEXTS = 2000
MAX_TOKENS = 128


def speed(setup: Setup, *, batch_size: int, small_batch_size: int) -> Finding:
    """Measure tokens/s of ours and of PEFT + Trainer, at its best and as shipped.

    The model is of DistilBERT's size. Padding does not count.
    """
    size = setup.choose(batch_size, small_batch_size)
    names = (OURS, BEST, SHIPPED)
    speeds, skipped = _of_each(setup, names, lambda name: _tokens_per_second(setup, name, size))
    ratios = {name: speeds[OURS] / value for name, value in speeds.items() if name != OURS}
    words = [f"{name} {value:,.0f} tokens/s" for name, value in speeds.items()]
    words += [f"{value:.2f} times {name}" for name, value in ratios.items()]
    line = setup.choose("", f"small form on a CPU, batch {size}: ") + ", ".join(words)
    figures = {**speeds, **{f"against_{name}": value for name, value in ratios.items()}}
    return Finding(line, figures=figures, skipped=skipped)


def prediction(setup: Setup) -> Finding:
    """Measure texts/s of ours and of `transformers.pipeline`, and the share of equal labels."""
    count = setup.choose(TEXTS, 16)
    ours, theirs = (
        # a new model for each
        measure_prediction(name, _work(setup, 16), count=count, adapter=None)
        for name in (OURS, "pipeline")
    )
    speeds = {OURS: ours["texts_per_second"], "pipeline": theirs["texts_per_second"]}
    agreement = share_equal(ours["labels"], theirs["labels"])
    ratio = speeds[OURS] / speeds["pipeline"]
    shown = ", ".join(f"{name} {value:,.0f} texts/s" for name, value in speeds.items())
    line = f"{shown}, {ratio:.2f} times the pipeline; {agreement:.1%} equal labels"
    figures = {**speeds, "against_pipeline": ratio, "agreement": agreement}
    return Finding(setup.choose("", "small form on a CPU: ") + line, figures=figures)


def whole_training(setup: Setup) -> Finding:
    """Train the named model on the named rows for three epochs, and measure it on the test rows."""
    epochs, limit = setup.choose(3, 1), 16 if setup.is_small else None
    training = TrainingConfig(learning_rate=2e-3, device=str(setup.device), epochs=epochs)
    rows = BenchmarkRows(dataset=setup.dataset, limit_train=limit, limit_eval=limit)
    work = open_work(BenchmarkModel(model=setup.model), rows, LoRAConfig(), training, steps=1)
    values = measure_job(OURS, work)
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    scores = f"test accuracy {values['accuracy']:.4f}, macro-F1 {values['macro_f1']:.4f}"
    line = f"{scores} after {values['seconds']:.1f} s"
    return Finding(setup.choose("", "small form on a CPU: ") + line, figures=numbers)


def lacks_inputs(setup: Setup) -> str:
    """Return why there is nothing to train on; empty if model and rows are named."""
    return "" if setup.model and setup.dataset else "no --model and --dataset"


def missing_packages(name: str) -> list[str]:
    """Return the packages that a contender needs and that are not installed."""
    needed = PEERS if name.startswith("peft") else ()
    return [package for package in needed if find_spec(package) is None]


def _of_each(
    setup: Setup,
    names: Sequence[str],
    measure: Callable[[str], float],
) -> tuple[Mapping[str, float], list[str]]:
    """Measure each that can run here. Return the values, and a line for each that can't."""
    values, skipped = {}, []
    for name in names:
        missing = missing_packages(name)
        if missing:
            skipped.append(f"{name}: {', '.join(missing)} not installed")
            continue
        values[name] = measure(name)
        setup.free_memory()
    return values, skipped


def _tokens_per_second(setup: Setup, name: str, batch_size: int) -> float:
    """Measure enough steps for a fair sample of Trainer's grouping, and at least SECONDS."""
    work, contender = _work(setup, batch_size), CONTENDERS[name]
    rows = work.sets["train"]
    sample = sorted_together(len(rows), batch_size) if contender.by_length else 1
    steps, seconds = setup.choose((sample, SECONDS[name]), (2, 0.0))
    clock = Timing(steps, seconds, lambda: 0, warm=setup.choose(WARM_STEPS[name], 1))
    contender.train(contender.build(work), work, rows, clock)
    return clock.tokens / clock.seconds


def _work(setup: Setup, batch_size: int) -> Work:
    """Return emotion-shaped rows for a new model of DistilBERT's size."""
    small = {**SMALL, "vocab_size": len(demo_tokenizer())}
    base = shaped_base(LABELS, **setup.choose({}, small))
    splits = emotion_shaped_splits()
    if setup.is_small:
        splits = limit_rows(splits, train=64, evaluation=32)
    sets = encode_splits(splits, base, max_tokens=min(MAX_TOKENS, base.tokenizer.model_max_length))
    sets["validation"] = sets["validation"].select(range(8))
    if not setup.is_small:
        rows = max(LEAST_ROWS, LEAST_BATCHES * batch_size)
        sets["train"] = repeat_rows(sets["train"], rows)
    training = TrainingConfig(batch_size=batch_size, epochs=100, device=str(setup.device))
    return Work(base, splits, sets, resolve_adapter(base, LoRAConfig()), training, steps=1)
