"""What carries an adapter's gain: without each module, layer and kind of module, with only one of them, and the dial.

    lora-scratch ablate checkpoints/demo/adapter
    lora-scratch ablate checkpoints/demo/adapter --split test --strengths 0 0.5 1 1.5 --json ablation.json
    lora-scratch ablate checkpoints/demo/adapter --limit_eval 500 --html ablation.html

Every trial is compared with the whole adapter on the same rows. p is McNemar's, exact; p (Holm) is corrected for the number
of trials, and the verdict is by that. The trained head stays in all of them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from lora_scratch.errors import printable
from lora_scratch.evaluation import Predictor, Table, markdown_table
from lora_scratch.reporting import check_installed, write_page
from lora_scratch.runs import (
    add_adapter,
    add_shared,
    argument_parser,
    check_file,
    check_given,
    command_line,
    encode_rows,
    open_adapter,
    open_rows,
    run_command,
)
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.study.ablation import STRENGTHS, Ablation, ablate, carriers
from lora_scratch.study.ablation_page import ablation_page

COLUMNS = ["trial", "accuracy", "change", "of the gain", "fixed", "broken", "p", "p (Holm)", "verdict"]


def main() -> None:
    """Open, try, print, write."""
    options = parse()
    check_file(options.json)
    if options.html is not None:
        check_file(options.html, flag="--html")
        check_installed("--html")
    saved = open_adapter(options.adapter, model=options.model)
    wanted = options.precision or saved.precision
    precision = resolve_precision(wanted, resolve_device(options.device))
    splits, max_tokens = open_rows(saved, dataset=options.dataset, limit_eval=options.limit_eval)
    rows = encode_rows(getattr(splits, options.split), saved.base, max_tokens=max_tokens)
    model = saved.base.model.to(precision.device)
    predict = Predictor(model, precision, saved.base.pad_token_id).logits
    found = ablate(model, predict, rows, strengths=options.strengths)
    print(f"{markdown_table(table(found))}\n\nHolm's correction is over all {len(found.trials)} trials.\n{carriers(found)}")
    if options.html:
        title = printable(f"Ablation of {options.adapter} on the {options.split} rows of {splits.source}")
        page = ablation_page(found.record(), title=title, answer=carriers(found), table=table(found), source=command_line())
        write_page(Path(options.html), page)
    if options.json:
        write_json(Path(options.json), found.record())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__)
    add_adapter(parser)
    add_shared(parser, "split", "dataset", "limit_eval", split={"default": "validation"})
    add_shared(parser, "precision", "device", "json", "html")
    meaning = "strengths of the adapter to try, 1 as trained (default: 0 to 1.5 in eighths)"
    parser.add_argument("--strengths", nargs="+", type=float, default=STRENGTHS, metavar="FACTOR", help=meaning)
    options = parser.parse_args()
    check_given(parser, options)
    wrong = [factor for factor in options.strengths if not math.isfinite(factor)]
    if wrong:
        parser.error(f"--strengths: found {wrong[0]}; expected finite numbers")
    return options


def table(found: Ablation) -> Table:
    """One line a trial; the share of the gain is what is lost without a part, and what is there with only that part."""
    rows = [["whole adapter", f"{found.adapted:.4f}", *[""] * 7]]
    for trial in found.trials:
        each, share = trial.found, found.share(trial)
        rows.append(
            [
                f"{trial.what} {trial.name if trial.what == 'strength' else f'{trial.group} {trial.name}'}",
                f"{each.accuracy:.4f}",
                f"{each.change:+.4f}",
                "" if share is None else f"{share:.1%}",
                str(each.fixed),
                str(each.broken),
                f"{each.p_value:.2g}",
                f"{trial.p_holm:.2g}",
                each.word,
            ]
        )
    return Table(COLUMNS, rows)


if __name__ == "__main__":
    run_command(main)
