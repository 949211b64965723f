"""Measure an adapter against its frozen baseline on the same rows.

lora-scratch evaluate checkpoints/demo/adapter
lora-scratch evaluate checkpoints/demo/adapter --split validation --json report.json
lora-scratch evaluate checkpoints/demo/adapter --dataset other/rows.csv
lora-scratch evaluate checkpoints/demo/adapter --require better      exit code 1 unless it is
torchrun --nproc_per_node 2 -m lora_scratch evaluate checkpoints/demo/adapter   the processes share the rows
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lora_scratch.adapter import count_parameters, disabled
from lora_scratch.data import Splits, shown_text
from lora_scratch.errors import ConfigError, printable
from lora_scratch.evaluation import REQUIREMENTS, Predictor, Report, render, require
from lora_scratch.model.sharding import shard_base
from lora_scratch.reporting import run_page, run_title, write_page
from lora_scratch.runs import (
    COLUMN_FLAGS,
    TrainedAdapter,
    add_adapter,
    add_shared,
    argument_parser,
    check_given,
    check_reports,
    command_line,
    encode_rows,
    left_out,
    named_columns,
    open_adapter,
    open_rows,
    run_command,
)
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.distributed import is_main
from lora_scratch.runtime.precision import resolve_precision

IN_PROCESSES, ONLY_CLASSIFIES = True, True
SPLIT_HELP = "which rows (default: test; of a --dataset that is a file of its own, all)"


def main() -> None:
    """Measure base and adapter on the same rows, print the report, check --require."""
    options = parse()
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    if options.temperature and not saved.task.has_confidence:
        raise ConfigError(saved.task.no_confidence, where="--temperature", remedy="leave it out")
    how = {"limit_eval": options.limit_eval, "held_out": options.split is None, "columns": named_columns(options)}
    splits, max_tokens = open_rows(saved, dataset=options.dataset, **how)
    report = compare(saved, splits, options, max_tokens=max_tokens)
    print("\n".join([render(report), *map(printable, splits.notes), *left_out(splits)]))
    if options.json and is_main():
        write_json(Path(options.json), report.as_json())
    if options.html and is_main():
        names = {"model": saved.base.name, "data": splits.source, "variant": saved.config.variant}
        title = run_title(report, **names, pairs=saved.provenance.data.pair_column is not None)
        write_page(Path(options.html), run_page(report, title=f"{title} ({options.split or 'test'} rows)"))
    if options.require:
        require(report.verdict.word, options.require)


def compare(saved: TrainedAdapter, splits: Splits, options: argparse.Namespace, *, max_tokens: int) -> Report:
    """Compare the adapter with its frozen base; --temperature fits one on the validation rows."""
    precision = resolve_precision(options.precision or saved.precision, resolve_device(options.device))
    rows, base = getattr(splits, options.split or "test"), saved.base
    encoded = encode_rows(rows, base, max_tokens=max_tokens)
    model = shard_base(base.model, precision.device) if options.fsdp else base.model.to(precision.device)
    predictor = Predictor(model, precision, base.pad_token_id, plain=options.plain)
    with disabled(model):
        baseline = predictor.logits(encoded, progress="baseline")
    adapted = predictor.logits(encoded, progress="adapted")
    task = saved.task
    if options.temperature:
        validation = splits.validation or open_rows(saved, limit_eval=options.limit_eval)[0].validation
        others = encode_rows(validation, base, max_tokens=max_tokens)
        task = task.fitted(predictor.logits(others, progress="validation"), others.labels)
    return Report.compare(
        baseline,
        adapted,
        encoded.labels,
        task=task,
        parameters=count_parameters(model),
        command=command_line(),
        texts=[shown_text(row) for row in rows],
        lengths=encoded.lengths,
    )


def parse() -> argparse.Namespace:
    """The command line, refused before a model is loaded where it can't be honoured.

    Raises:
        ConfigError: a temperature that would be fitted on the rows it is measured on, or reports that can't be written.
    """
    parser = argument_parser(__doc__)
    add_adapter(parser)
    add_shared(parser, "split", "dataset", *COLUMN_FLAGS, "limit_eval", split={"help": SPLIT_HELP})
    add_shared(parser, "precision", "device", "plain", "fsdp")
    add_shared(parser, "json", "html")
    results = parser.group("results")
    meaning = "exit with 1 unless the verdict is this: better, or not_worse (better or not shown)"
    results.add_argument("--require", choices=[*REQUIREMENTS], help=meaning)
    meaning = (
        "fit a temperature on the validation rows, where --dataset has none on the training's; not with --split validation"
    )
    results.add_argument("--temperature", action="store_true", help=meaning)
    options = parser.parse_args()
    check_given(parser, options)
    if options.temperature and options.split == "validation":
        raise ConfigError("the rows are the validation rows themselves", where="--temperature", remedy="use --split test")
    check_reports(options)
    return options


if __name__ == "__main__":
    run_command(main, in_processes=IN_PROCESSES, only_classifies=ONLY_CLASSIFIES)
