"""Does memory stay flat when there are a hundred times as many rows? Peak memory with few rows and with many, each in a
process of its own: what the first leaves behind, compiled kernels above all, must not count for the second."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from lora_scratch.commands.benchmarks.held import peak_of
from lora_scratch.commands.benchmarks.ours import build_ours, train_ours
from lora_scratch.commands.benchmarks.process import in_a_process
from lora_scratch.commands.benchmarks.watch import Clock
from lora_scratch.commands.benchmarks.work import Work

from lora_scratch.data import encode, load_splits
from lora_scratch.deploy.classify import Classifier
from lora_scratch.runs import TrainedAdapter

TIMES = 100

WithRows = Callable[[int], None]


def predicting(work: Work) -> WithRows:
    """Texts streamed through the classifier of scripts/predict.py."""
    adapted = replace(work.base, model=build_ours(work))
    notes = {"data": {"max_tokens": work.sets["test"].max_tokens}}
    saved = TrainedAdapter(adapted, work.adapter, work.splits.labels, notes)
    classify = Classifier(saved, precision=work.precision(work.training.precision))

    def with_rows(count: int) -> None:
        """Classify so many rows."""
        texts = cycle(row.text for row in work.splits.test)
        for _ in classify(islice(texts, count)):
            pass

    return with_rows


def training(work: Work) -> WithRows:
    """Rows loaded from a file, encoded, and an epoch over `work.steps` batches of them."""
    model = build_ours(work)
    short = replace(work, training=replace(work.training, epochs=1))

    def with_rows(count: int) -> None:
        """Train one epoch on so many rows."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.txt"
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{row.text};{row.label}\n" for row in islice(cycle(work.splits.train), count))
            rows = load_splits(str(path)).train
        tokens = work.sets["train"].max_tokens
        encoded = encode([row.text for row in rows], [row.label for row in rows], work.base.tokenizer, max_tokens=tokens)
        few = encoded.select(range(min(work.steps * work.training.batch_size, len(encoded))))
        train_ours(model, short, few, Clock())

    return with_rows


GROWTHS: dict[str, Callable[[Work], WithRows]] = {"prediction": predicting, "training": training}


def measure_peak(name: str, work: Work, *, rows: int) -> dict[str, Any]:
    """Peak memory of this process or its GPU, which should have done nothing else, with `rows` rows."""
    GROWTHS[name](work)(rows)
    return {"rows": rows, "peak_bytes": peak_of(work.device)}


def measure_growth(name: str, *, rows: int) -> dict[str, Any]:
    """Peak memory with `rows` rows and with a hundred times as many, by this very command, and their ratio."""
    command = [sys.executable, *sys.argv, "--only", f"peak:{name}", "--rows"]
    few, many = (in_a_process([*command, str(count)])["peak_bytes"] for count in (rows, TIMES * rows))
    return {"rows": rows, "few_bytes": few, "many_bytes": many, "ratio": many / few}
