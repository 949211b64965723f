"""Measure an adapter against its frozen baseline on the same rows.

python scripts/evaluate.py --adapter checkpoints/demo/adapter
python scripts/evaluate.py --adapter checkpoints/demo/adapter --split validation --json report.json
python scripts/evaluate.py --adapter checkpoints/demo/adapter --dataset other/rows.csv
python scripts/evaluate.py --adapter checkpoints/demo/adapter --require better      exit code 1 unless it is
torchrun --nproc_per_node 2 scripts/evaluate.py --adapter checkpoints/demo/adapter  each process takes a share of the rows
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from lora_scratch.adapter import count_parameters, disabled
from lora_scratch.errors import ConfigError, printable
from lora_scratch.evaluation import REQUIREMENTS, Predictor, build_report, render, require, versions, with_texts
from lora_scratch.model.sharding import shard_base
from lora_scratch.reporting import check_installed, run_page, write_page
from lora_scratch.runs import (
    check_file,
    command_line,
    encode_rows,
    flag_parser,
    left_out,
    open_adapter,
    open_rows,
    parse_flags,
    run_command,
)
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.distributed import is_main
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
    precision: str | None = field(default=None, metadata={"help": "fp32, bf16, fp16 or auto (default: as trained)"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda or auto"})
    plain: bool = field(default=False, metadata={"help": "with padding, by the model's own code: slower, equal to rounding"})
    fsdp: bool = field(
        default=False, metadata={"help": "share the base out over the processes, for one that does not fit one device"}
    )
    json: str | None = field(default=None, metadata={"help": "write the report to this file too"})
    html: str | None = field(default=None, metadata={"help": "draw the report to this file too; needs the extra `report`"})
    require: str | None = field(
        default=None,
        metadata={
            "help": "exit with 1 unless the verdict is this: better, or not_worse (better or not shown)",
            "choices": [*REQUIREMENTS],
        },
    )
    temperature: bool = field(
        default=False, metadata={"help": "fit a temperature on the validation rows; not with --split validation"}
    )


def main() -> None:
    """Base and adapter over the same rows."""
    (options,) = parse_flags(flag_parser([EvaluateOptions], str(__doc__)))
    check_options(options)
    saved = open_adapter(options.adapter, model=options.model)
    wanted = options.precision or saved.noted("training", "precision", str)
    precision = resolve_precision(wanted, resolve_device(options.device))
    splits, max_tokens = open_rows(saved, dataset=options.dataset, limit_eval=options.limit_eval)
    rows = getattr(splits, options.split)
    encoded = encode_rows(rows, saved.base, max_tokens=max_tokens)
    model = saved.base.model
    model = shard_base(model, precision.device) if options.fsdp else model.to(precision.device)
    pad = saved.base.pad_token_id
    predict = Predictor(model, precision, pad, plain=options.plain).logits
    with disabled(model):
        baseline = predict(encoded, progress="baseline")
    adapted = predict(encoded, progress="adapted")
    validation = {}
    if options.temperature:
        others = encode_rows(splits.validation, saved.base, max_tokens=max_tokens)
        validation = {
            "validation_logits": predict(others, progress="validation"),
            "validation_labels": others.labels,
        }
    report = build_report(
        baseline_logits=baseline,
        adapted_logits=adapted,
        labels=encoded.labels,
        names=saved.labels,
        parameters=asdict(count_parameters(model)),
        train=None,
        versions=versions(),
        command=command_line(),
        lengths=encoded.lengths,
        **validation,
    )
    report = with_texts(report, [row.text for row in rows])
    print("\n".join([render(report), *left_out(splits)]))
    if options.json and is_main():
        write_json(Path(options.json), report)
    if options.html and is_main():
        title = printable(f"{options.adapter} on the {options.split} rows of {splits.source}")
        write_page(Path(options.html), run_page(report, title=title))
    if options.require:
        require(report["verdict"]["word"], options.require)


def check_options(options: EvaluateOptions) -> None:
    """What can be refused before a model is loaded.

    Raises:
        ConfigError: no such split, or a temperature that would be fitted on the rows it is measured on.
    """
    if options.split not in SPLITS:
        raise ConfigError(f"found {options.split!r}", where="--split", expected=", ".join(SPLITS))
    if options.temperature and options.split == "validation":
        raise ConfigError("the rows are the validation rows themselves", where="--temperature", remedy="use --split test")
    check_file(options.json)
    if options.html is not None:
        check_file(options.html, flag="--html")
        check_installed("--html")


if __name__ == "__main__":
    run_command(main, in_processes=True)
