"""Which parts of an adapter bring its gain: without a part, with only one, at another strength.

    lora-scratch ablate checkpoints/demo/adapter
    lora-scratch ablate checkpoints/demo/adapter --split test --strengths 0 0.5 1 1.5 --json ablation.json
    lora-scratch ablate checkpoints/demo/adapter --limit_eval 500 --html ablation.html

A part is a module, a layer, or a projection of all layers. Every trial is compared with the whole
adapter on the same rows. p is McNemar's, exact; p (Holm) is corrected for the number of trials and
decides the verdict. The trained head stays.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from lora_scratch.errors import printable
from lora_scratch.evaluation import Predictor, Table, markdown_table
from lora_scratch.reporting import write_page
from lora_scratch.runs import (
    COLUMN_FLAGS,
    add_adapter,
    add_shared,
    argument_parser,
    check_given,
    check_reports,
    command_line,
    encode_rows,
    named_columns,
    open_adapter,
    open_rows,
    run_command,
)
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.study.ablation import STRENGTHS, Ablation, Trial, ablate, describe
from lora_scratch.study.ablation_page import ablation_page

COLUMNS = ["trial", "score", "change", "of the gain", "fixed", "broken", "p", "p (Holm)", "verdict"]
SPLIT_HELP = "which rows (default: validation; of a --dataset that is a file of its own, all)"


def main() -> None:
    """Open the adapter, run the trials, print the table, write the files."""
    options = parse()
    check_reports(options)
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    wanted = options.precision or saved.precision
    precision = resolve_precision(wanted, resolve_device(options.device))
    how = {"limit_eval": options.limit_eval, "held_out": options.split is None, "columns": named_columns(options)}
    splits, max_tokens = open_rows(saved, dataset=options.dataset, **how)
    split = options.split or ("validation" if splits.validation else "test")
    rows = encode_rows(getattr(splits, split), saved.base, max_tokens=max_tokens)
    model = saved.base.model.to(precision.device)
    predict = Predictor(model, precision, saved.base.pad_token_id).logits
    ablation = ablate(model, predict, rows, strengths=options.strengths, task=saved.task)
    trials = table(ablation)
    correction = f"Holm's correction is over all {len(ablation.trials)} trials."
    print(f"{markdown_table(trials)}\n\n{correction}\n{describe(ablation)}")
    if options.html:
        rows_of = f"the {split} rows of {splits.source}"
        title = printable(f"Ablation of {options.adapter} on {rows_of}")
        page = ablation_page(ablation, title=title, table=trials, source=command_line())
        write_page(Path(options.html), page)
    if options.json:
        write_json(Path(options.json), ablation.as_json())


def parse() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argument_parser(__doc__)
    add_adapter(parser)
    add_shared(parser, "split", "dataset", *COLUMN_FLAGS, "limit_eval", split={"help": SPLIT_HELP})
    add_shared(parser, "precision", "device", "json", "html")
    meaning = "strengths of the adapter to try, 1 as trained (default: 0 to 1.5 in eighths)"
    parser.add_argument("--strengths", nargs="+", type=float, default=STRENGTHS, metavar="FACTOR", help=meaning)
    options = parser.parse_args()
    check_given(parser, options)
    wrong = [factor for factor in options.strengths if not math.isfinite(factor)]
    if wrong:
        parser.error(f"--strengths: found {wrong[0]}; expected finite numbers")
    return options


def table(ablation: Ablation) -> Table:
    """Return a row for the whole adapter and for every trial."""
    whole = ["whole adapter", f"{ablation.adapted:.4f}", *[""] * 7]
    rows = [row(trial, share=ablation.share(trial)) for trial in ablation.trials]
    return Table(COLUMNS, [whole, *rows])


def row(trial: Trial, *, share: float | None) -> list[str]:
    """Return the cells of one trial; `share` is its share of the gain."""
    test = trial.test
    return [
        f"{trial.kind} {trial.title}",
        f"{test.score:.4f}",
        f"{test.change:+.4f}",
        "" if share is None else f"{share:.1%}",
        str(test.fixed),
        str(test.broken),
        f"{test.p_value:.2g}",
        f"{trial.p_holm:.2g}",
        test.word,
    ]


if __name__ == "__main__":
    run_command(main)
