"""Check the rows of a data set before they are trained on: copies, leaks, conflicts, shifts, suspect labels.

    lora-scratch check_data --dataset DIR
    lora-scratch check_data --dataset DIR --model MODEL --json findings.json
    lora-scratch check_data --run checkpoints/mine       the rows of that run, and its hardest training rows

Copies: texts that differ only in case and white space are the same; of a pair, both texts. All three
splits are searched together, and a text that stands in several rows counts once. A conflict is such
a text with different labels, in one split or across splits; for scores, with two of them more than a
tenth of the range of all scores apart. A test row is leaked if its text stands in train too.

Near copies: texts that share most of their words and pairs of neighboring words, without case and
punctuation (--near). Every row is compared with the rows before it, in the order train, validation,
test; exact copies are not counted again. Of rows made from one template the first 500 are compared.

With --model: lengths in tokens, rows that are cut, and labels that may be wrong, by a regression on
the features of the frozen model that has not seen the row. A suggestion is no proof: read the row.
With --run: the rows of that run, and those its training kept getting wrong.

Nothing is changed, and rows are counted from 0 in their split. A row number and a text are enough
to find the row. The files of your data stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_scratch.data import Splits
from lora_scratch.data.near_copies import THRESHOLD, find_near_copies
from lora_scratch.data.overlap import NAMES, AllRows, find_copies
from lora_scratch.data.shift import word_counts
from lora_scratch.errors import ConfigError, printable
from lora_scratch.evaluation import Predictor
from lora_scratch.evaluation.probe import frozen_features
from lora_scratch.model.forward import evaluating
from lora_scratch.runs import (
    DataOptions,
    check_reports,
    encode_rows,
    fitting_rows,
    flag_parser,
    left_out,
    open_base,
    open_splits,
    parse_flags,
    recorded_run,
    run_command,
)
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.options import flag
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.study.data_check import DataCheck, Lengths, hard_rows
from lora_scratch.study.data_check_text import render_check
from lora_scratch.study.suspects import rank_suspects
from lora_scratch.tasks import make_task
from lora_scratch.training.margins import read_margins


@dataclass
class CheckOptions:
    """What is looked for."""

    _argument_group_name = "check"  # the title of these flags in --help

    model: str | None = flag(None, "hub name or folder of an encoder, or `demo`: also tokens, cut rows and suspect labels")
    run: str | None = flag(None, "run folder: check its rows, and list those with the lowest margin in training")
    near: float = flag(THRESHOLD, "share of words and neighboring pairs that near copies have in common; 0: do not look")
    show: int = flag(5, "rows of every kind that are printed")
    top: int = flag(50, "suspect labels and hard rows in the file of --json")
    seed: int = flag(0, "of the rows that are held out where the data set has no such split, as for train")
    json: str | None = flag(None, "write every finding to this file too")
    precision: str = flag("auto", "of the model: fp32, bf16, fp16 or auto")
    device: str = flag("auto", "of the model: cpu, cuda or auto")

    def __post_init__(self) -> None:
        if not 0 <= self.near <= 1:
            raise ConfigError(f"found {self.near}", where="--near", expected="0 to 1")
        for name in ("show", "top"):
            if getattr(self, name) < 0:
                raise ConfigError(f"found {getattr(self, name)}", where=f"--{name}", expected="at least 0")


def main() -> None:
    """Read the rows, look for everything, print it, write the file."""
    data, options = parse()
    splits = open_splits(data, seed=options.seed)
    check = DataCheck(splits, find_copies(splits), Lengths("words", word_counts(splits)))
    if options.near:
        check = replace(check, near=find_near_copies(splits, threshold=options.near))
    if options.model:
        check = with_model(check, data, options)
    if options.run:
        margins = read_margins(Path(options.run), train_digest=splits.digests["train"])
        check = replace(check, hard=hard_rows(margins, splits))
    print("\n".join([*map(printable, splits.notes), *left_out(splits), render_check(check, show=options.show)]))
    if options.json:
        write_json(Path(options.json), check.as_json(top=options.top))


def parse() -> tuple[DataOptions, CheckOptions]:
    """The command line; with --run, the data options of that run.

    Raises:
        ConfigError: no such run, or a report that can't be written.
    """
    parser = flag_parser((DataOptions, CheckOptions), str(__doc__))
    data, options = parse_flags(parser)
    if options.run:
        data, options = of_run(data, options)
    elif data.dataset is None:
        parser.error("--dataset is missing: pass it, or --run")
    check_reports(data, options)
    return data, options


def of_run(data: DataOptions, options: CheckOptions) -> tuple[DataOptions, CheckOptions]:
    """Return the options of the run's rows; --dataset names them if they have moved."""
    record = recorded_run(str(options.run))
    if record is None:
        raise ConfigError("no run was started here (there is no config.json)", where=f"--run {options.run}")
    known = {field.name for field in fields(DataOptions)}
    recorded = {name: value for name, value in record.get("DataOptions", {}).items() if name in known}
    rows = DataOptions(**recorded)
    return replace(rows, dataset=data.dataset or rows.dataset), replace(
        options, seed=record["TrainingConfig"].get("seed", 0)
    )


def with_model(check: DataCheck, data: DataOptions, options: CheckOptions) -> DataCheck:
    """Return the findings with those that need a model: tokens, cut rows, suspect labels."""
    splits = check.splits
    base = open_base(str(options.model), labels=splits.labels, task=splits.task)
    data = fitting_rows(data, base)
    encoded = {name: encode_rows(getattr(splits, name), base, max_tokens=data.max_tokens) for name in NAMES}
    precision = resolve_precision(options.precision, resolve_device(options.device))
    predictor = Predictor(base.model.to(precision.device), precision, base.pad_token_id)
    with evaluating(base.model):
        parts = [frozen_features(predictor, rows, progress=f"{name} features") for name, rows in encoded.items()]
    features = [torch.cat(kind) for kind in zip(*parts, strict=True)]
    lengths = {name: rows.lengths.tolist() for name, rows in encoded.items()}
    cut = {name: rows.truncated for name, rows in encoded.items()}
    return replace(
        check,
        lengths=Lengths("tokens", lengths, cut=cut, max_tokens=data.max_tokens),
        suspects=suspects(splits, features),
    )


def suspects(splits: Splits, features: list[Tensor]) -> list[Any]:
    """Rank the suspect labels of all splits."""
    task = make_task(splits.task, splits.labels)
    return rank_suspects(AllRows(splits).rows, features, task, progress="suspect labels")


if __name__ == "__main__":
    run_command(main)
