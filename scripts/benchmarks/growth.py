"""Measures whether memory stays flat with a hundred times as many rows.

Few rows and many are measured in processes of their own. What the first leaves behind, above all
compiled kernels, must not count for the second.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from lora_scratch.data import Splits, load_splits
from lora_scratch.deploy.classify import Classifier
from lora_scratch.runs import encode_rows, restart_command
from lora_scratch.runtime.memory import peak_bytes

from .ours import build_ours, train_ours
from .prediction import trained_adapter
from .process import in_a_process
from .watch import Clock
from .work import Work

TIMES = 100


def predicting(work: Work, count: int) -> None:
    """Stream `count` texts through the classifier of scripts/predict.py."""
    saved = trained_adapter(work, build_ours(work))
    classify = Classifier(saved, precision=work.precision(work.training.precision))
    texts = cycle(row.text for row in work.splits.test)
    for _ in classify(islice(texts, count)):
        pass


def training(work: Work, count: int) -> None:
    """Load `count` rows from a file, encode them, and train on `work.steps` batches of them."""
    model = build_ours(work)
    with tempfile.TemporaryDirectory() as folder:
        rows = _write_rows(Path(folder) / "rows.txt", work, count).train
    encoded = encode_rows(rows, work.base, max_tokens=work.sets["train"].max_tokens)
    few = encoded.select(range(min(work.steps * work.training.batch_size, len(encoded))))
    one_epoch = replace(work, training=replace(work.training, epochs=1))
    train_ours(model, one_epoch, few, Clock())


GROWTHS: dict[str, Callable[[Work, int], None]] = {"prediction": predicting, "training": training}


def measure_peak(name: str, work: Work, *, rows: int) -> dict[str, Any]:
    """Return the peak memory with `rows` rows of this process, or of its GPU.

    The process should have done nothing else.
    """
    GROWTHS[name](work, rows)
    return {"rows": rows, "peak_bytes": peak_bytes(work.device)}


def measure_growth(name: str, *, rows: int) -> dict[str, Any]:
    """Return the peak memory with `rows` rows and with a hundred times as many, and their ratio."""
    command = [*restart_command(), *sys.argv[1:], "--only", f"peak:{name}", "--rows"]
    few, many = (in_a_process([*command, str(count)]) for count in (rows, TIMES * rows))
    few_bytes, many_bytes = few["peak_bytes"], many["peak_bytes"]
    ratio = many_bytes / few_bytes
    return {"rows": rows, "few_bytes": few_bytes, "many_bytes": many_bytes, "ratio": ratio}


def _write_rows(path: Path, work: Work, count: int) -> Splits:
    """Write `count` training rows to a file, from the start again if too few, and load it."""
    with open(path, "w", encoding="utf-8") as file:
        rows = islice(cycle(work.splits.train), count)
        file.writelines(f"{row.text};{row.label}\n" for row in rows)
    return load_splits(str(path))
