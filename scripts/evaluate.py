"""Measure an adapter against its frozen baseline on the same rows.

python scripts/evaluate.py --adapter checkpoints/demo/adapter
python scripts/evaluate.py --adapter checkpoints/demo/adapter --split validation --json report.json
python scripts/evaluate.py --adapter checkpoints/demo/adapter --dataset other/rows.csv
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from lora_scratch.adapter import count_parameters, disabled
from lora_scratch.data import Example
from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import build_report, predict_logits, render, versions
from lora_scratch.jobs import DataOptions, encode_rows, open_adapter, open_splits, relabel, run_command
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision

SPLITS = ("train", "validation", "test")


@dataclass
class EvaluateOptions:
    """What to measure."""

    adapter: str = field(metadata={"help": "adapter folder, as scripts/train.py writes it"})
    split: str = field(default="test", metadata={"help": f"which rows: {', '.join(SPLITS)}"})
    model: str | None = field(default=None, metadata={"help": "base model, if not the one the adapter names"})
    dataset: str | None = field(default=None, metadata={"help": "other rows than those the adapter was trained with"})
    limit_eval: int | None = field(default=None, metadata={"help": "use only this many rows"})
    precision: str = field(default="auto", metadata={"help": "compute dtype: fp32, bf16, fp16 or auto"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda or auto"})
    json: str | None = field(default=None, metadata={"help": "write the report to this file too"})


def main() -> None:
    """Base and adapter over the same rows."""
    (options,) = HfArgumentParser(EvaluateOptions, description=__doc__).parse_args_into_dataclasses()
    if options.split not in SPLITS:
        raise ConfigError(f"found {options.split!r}", where="--split", expected=", ".join(SPLITS))
    precision = resolve_precision(options.precision, resolve_device(options.device))
    saved = open_adapter(options.adapter, model=options.model)
    rows, max_tokens = open_rows(options, saved.notes, saved.labels)
    encoded = encode_rows(rows, saved.base, max_tokens=max_tokens)
    model = saved.base.model.to(precision.device)
    predict = partial(predict_logits, model, encoded, precision=precision, pad_token_id=saved.base.pad_token_id)
    with disabled(model):
        baseline = predict(progress="baseline")
    report = build_report(
        baseline_logits=baseline,
        adapted_logits=predict(progress="adapted"),
        labels=encoded.labels,
        names=saved.labels,
        parameters=asdict(count_parameters(model)),
        train=None,
        versions=versions(),
        command=shlex.join(["python", *sys.argv]),
    )
    print(render(report))
    if options.json:
        write_json(Path(options.json), report)


def open_rows(options: EvaluateOptions, notes: dict[str, Any], labels: tuple[str, ...]) -> tuple[tuple[Example, ...], int]:
    """The rows to measure on, with the adapter's own label numbers, and the length they are cut to."""
    recorded = {each.name: notes["data"][each.name] for each in fields(DataOptions) if each.name in notes["data"]}
    data = DataOptions(**{**recorded, "limit_train": None, "limit_eval": options.limit_eval})
    data.dataset = options.dataset or data.dataset
    splits = relabel(open_splits(data, seed=notes["training"]["seed"]), labels)
    return getattr(splits, options.split), data.max_tokens


if __name__ == "__main__":
    run_command(main)
