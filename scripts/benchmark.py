"""Train the same adapter on the same rows with lora-scratch and with PEFT + Trainer, side by side, and compare.

    python scripts/benchmark.py --model DIR --dataset DIR               one round of each contender
    python scripts/benchmark.py --model DIR --dataset DIR --rounds 3 --contenders ours peft-best --json figures.json

Each contender trains in a process of its own; rounds are interleaved, so that a machine that slows down slows all alike.
`ours`: train.py's loop. `ours-plain`: the same without the fast path. `peft`: PEFT + Trainer as shipped (fp32, random
batches). `peft-bf16`: with bf16=True. `peft-best`: with bf16=True and batches grouped by length. Needs the extra `benchmark`
(peft, accelerate).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lora_scratch.adapter import LoRAConfig, dry_run, inject
from lora_scratch.data import Encoded, Splits
from lora_scratch.errors import ConfigError, LoraScratchError
from lora_scratch.evaluation import Metrics, measure, predict_logits, versions
from lora_scratch.jobs import DataOptions, ModelOptions, encode_rows, open_base, open_splits, parse, run_command
from lora_scratch.model import Base
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import peak_memory_bytes, resolve_device, use_threads
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training import TrainingConfig, train


@dataclass
class BenchmarkOptions:
    """What to compare."""

    contenders: list[str] = field(
        default_factory=lambda: ["ours", "peft-bf16"], metadata={"help": "who runs, in this order"}
    )
    rounds: int = field(default=1, metadata={"help": "how often each one runs"})
    json: str | None = field(default=None, metadata={"help": "write every figure to this file"})
    only: str | None = field(default=None, metadata={"help": "run this one contender here and print its figures as JSON"})


@dataclass(frozen=True)
class Work:
    """The same for all: base, rows, adapter, training settings."""

    base: Base
    splits: Splits
    sets: dict[str, Encoded]
    adapter: LoRAConfig
    training: TrainingConfig


def train_ours(work: Work, *, plain: bool) -> Callable[[], Metrics]:
    """lora-scratch; returns what measures it on the test rows."""
    model = inject(work.base.model, work.adapter, seed=work.training.seed)
    pad, settings = work.base.pad_token_id, replace(work.training, plain=plain)
    train(model, work.sets["train"], work.sets["validation"], settings, pad_token_id=pad, show_progress=False)
    return lambda: test_metrics(model, work)


def train_peft(work: Work, **arguments: Any) -> Callable[[], Metrics]:
    """PEFT's adapter under transformers' Trainer, best epoch by validation accuracy, like ours."""
    import peft
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=work.adapter.rank,
        lora_alpha=work.adapter.alpha,
        lora_dropout=work.adapter.dropout,
        use_rslora=work.adapter.rslora,
        target_modules=work.adapter.targets,
    )
    model = peft.get_peft_model(work.base.model, config)
    settings = work.training
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=settings.epochs,
                per_device_train_batch_size=settings.batch_size,
                per_device_eval_batch_size=64,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                warmup_steps=settings.warmup_ratio,
                lr_scheduler_type=settings.schedule,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                metric_for_best_model="accuracy",
                report_to="none",
                disable_tqdm=True,
                seed=settings.seed,
                use_cpu=resolve_device(settings.device).type == "cpu",
                **arguments,
            ),
            train_dataset=Dataset.from_list(rows_of(work.sets["train"])),
            eval_dataset=Dataset.from_list(rows_of(work.sets["validation"])),
            data_collator=DataCollatorWithPadding(work.base.tokenizer),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
        )
        trainer.train()
    return lambda: test_metrics(model, work)


CONTENDERS: dict[str, Callable[[Work], Callable[[], Metrics]]] = {
    "ours": lambda work: train_ours(work, plain=False),
    "ours-plain": lambda work: train_ours(work, plain=True),
    "peft": train_peft,
    "peft-bf16": lambda work: train_peft(work, bf16=True),
    "peft-best": lambda work: train_peft(work, bf16=True, train_sampling_strategy="group_by_length"),
}


def rows_of(encoded: Encoded) -> list[dict[str, Any]]:
    """The rows as Trainer's data sets hold them."""
    rows = torch.split(encoded.tokens, encoded.lengths.tolist())
    return [{"input_ids": ids.tolist(), "labels": int(label)} for ids, label in zip(rows, encoded.labels, strict=True)]


def test_metrics(model: Any, work: Work) -> Metrics:
    """Every contender is measured by the same code."""
    precision = resolve_precision(work.training.precision, resolve_device(work.training.device))
    rows = work.sets["test"]
    return measure(predict_logits(model, rows, precision=precision, pad_token_id=work.base.pad_token_id), rows.labels)


def run_one(name: str, work: Work) -> dict[str, Any]:
    """The figures of one contender in this process."""
    loaded = peak_memory_bytes(resolve_device(work.training.device))
    start = time.perf_counter()
    measured = CONTENDERS[name](work)
    seconds = time.perf_counter() - start
    tokens = int(work.sets["train"].lengths.sum()) * work.training.epochs
    peak = peak_memory_bytes(resolve_device(work.training.device))
    return {
        **asdict(measured()),
        "contender": name,
        "train_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_above_model_bytes": peak - loaded,
    }


def prepare(model: ModelOptions, data: DataOptions, adapter: LoRAConfig, training: TrainingConfig) -> Work:
    """Load and tokenise; not part of any timing."""
    splits = open_splits(data, seed=training.seed)
    base = open_base(str(model.model), labels=splits.labels, seed=training.seed)
    rows = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    sets = {name: encode_rows(each, base, max_tokens=data.max_tokens) for name, each in rows.items()}
    return Work(base, splits, sets, dry_run(base.model, adapter).config, training)


def run_child(name: str) -> dict[str, Any]:
    """One contender in a process of its own, with the flags of this one."""
    command = [sys.executable, *sys.argv, "--only", name]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  (our own flags)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise LoraScratchError(f"ended with {done.returncode}: {lines[-1]}", where=f"contender {name}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def render(figures: list[dict[str, Any]]) -> str:
    """A row for each contender: median and minimum of the training time, against the first one."""
    names = list(dict.fromkeys(row["contender"] for row in figures))
    by_name = {name: [row for row in figures if row["contender"] == name] for name in names}
    first = statistics.median(row["train_seconds"] for row in by_name[names[0]])
    lines = [
        f"{'contender':<12}{'train s':>9}{'min':>8}{'ratio':>8}{'tokens/s':>10}{'accuracy':>10}{'macro-F1':>10}{'MiB':>8}"
    ]
    for name, rows in by_name.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "contender"}
        lines.append(
            f"{name:<12}{middle['train_seconds']:>9.1f}{min(row['train_seconds'] for row in rows):>8.1f}"
            f"{middle['train_seconds'] / first:>8.2f}{middle['tokens_per_second']:>10,.0f}{middle['accuracy']:>10.4f}"
            f"{middle['macro_f1']:>10.4f}{middle['peak_memory_above_model_bytes'] / 2**20:>8.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Every contender in turn, or just this one in this process."""
    kinds = (ModelOptions, DataOptions, LoRAConfig, TrainingConfig, BenchmarkOptions)
    model, data, adapter, training, options = parse(kinds, str(__doc__))
    unknown = [name for name in options.contenders if name not in CONTENDERS]
    if unknown:
        raise ConfigError(f"no contender {unknown[0]!r}", where="--contenders", expected=", ".join(CONTENDERS))
    use_threads(training.threads)
    if options.only:
        print(json.dumps(run_one(options.only, prepare(model, data, adapter, training))))
        return
    order = [name for _ in range(options.rounds) for name in options.contenders]
    figures = [run_child(name) for name in tqdm(order, desc="benchmark", unit="run")]
    load = os.getloadavg()[0]
    print(render(figures))
    print(f"\n{os.cpu_count()} CPUs, load {load:.1f} at the end, {', '.join(f'{k} {v}' for k, v in versions().items())}")
    if options.json:
        write_json(Path(options.json), {"figures": figures, "versions": versions(), "load": load})


if __name__ == "__main__":
    run_command(main)
