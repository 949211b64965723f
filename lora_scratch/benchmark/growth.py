"""Does memory stay flat when there are a hundred times as many rows? Peak memory with few rows, then with many."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from ..data import encode, load_splits
from ..jobs import Classifier, SavedAdapter
from ..runtime.memory import peak_bytes
from .ours import build_ours, train_ours
from .watch import Clock
from .work import Work

TIMES = 100

WithRows = Callable[[int], None]


def predicting(work: Work) -> WithRows:
    """Texts streamed through the classifier of scripts/predict.py."""
    adapted = replace(work.base, model=build_ours(work))
    notes = {"data": {"max_tokens": work.sets["test"].max_tokens}}
    saved = SavedAdapter(adapted, work.adapter, work.splits.labels, notes)
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


def measure_growth(name: str, work: Work, *, rows: int) -> dict[str, Any]:
    """Peak memory of this process with `rows` rows, then with a hundred times as many, and their ratio."""
    with_rows = GROWTHS[name](work)
    peaks = []
    for count in (rows, TIMES * rows):
        with_rows(count)
        peaks.append(peak_bytes())
    return {"rows": rows, "few_bytes": peaks[0], "many_bytes": peaks[1], "ratio": peaks[1] / peaks[0]}
