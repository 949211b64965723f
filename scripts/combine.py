"""Sums of adapters of one base: added, subtracted, averaged, scaled; exact, or in a lower rank with what that loses.

lora-scratch combine --add A B --output sum                       the exact sum; its rank is that of both together
lora-scratch combine --add A B --weights 0.3 0.7 --rank 8 --output sum
lora-scratch combine --subtract A B --heads_from A --output difference
lora-scratch combine --average A B C --rank 8 --output mean
lora-scratch combine --add A --weights 0.5 --output half          A at half its strength
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from lora_scratch.arithmetic.combine import Combination, combine_parts, open_part, save_combination
from lora_scratch.evaluation import Table, aligned_table
from lora_scratch.runs import (
    add_shared,
    argument_parser,
    check_free,
    check_given,
    check_reports,
    command_line,
    run_command,
)
from lora_scratch.runtime.atomic import write_json


def main() -> None:
    """Open the adapters, add them up, print the table, write the sum."""
    options = parse()
    place = check_free(Path(options.output), flag="--output")
    check_reports(options)
    terms = zip(*folders_and_weights(options), strict=True)
    parts = [open_part(folder, weight, model=options.model, labels=options.labels) for folder, weight in terms]
    total = combine_parts(parts, rank=options.rank, heads_from=options.heads_from)
    print(table(total))
    save_combination(total, place, command=command_line())
    if options.json:
        modules = [asdict(row) for row in total.rows]
        write_json(Path(options.json), {"residual": total.residual, "modules": modules})
    print(f"\nadapter: {place}")


def parse() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argument_parser(__doc__)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--add", nargs="+", metavar="FOLDER", help="the sum of these adapters, with --weights a weighted one")
    kind.add_argument("--subtract", nargs=2, metavar="FOLDER", help="the first adapter minus the second")
    kind.add_argument("--average", nargs="+", metavar="FOLDER", help="the mean of these adapters")
    parser.add_argument("--weights", nargs="+", type=float, help="a number for each adapter of --add (default: 1)")
    parser.add_argument("--rank", type=int, help="the nearest update of this rank in every module (default: the exact one)")
    parser.add_argument(
        "--heads_from", metavar="FOLDER", help="whose trained heads to take, where they are not to be averaged"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the adapter goes; must not hold files yet")
    add_shared(parser, "model", "labels", "json", model={"help": "base model, if not the one the adapters name"})
    options = parser.parse_args()
    check_given(parser, options)
    folders, weights = folders_and_weights(options)
    if options.weights and not options.add:
        parser.error("--weights goes with --add")
    if len(weights) != len(folders):
        parser.error(f"--weights: {len(weights)} for {len(folders)} adapters")
    if options.rank is not None and options.rank < 1:
        parser.error(f"--rank: found {options.rank}; expected at least 1")
    if options.heads_from and options.heads_from not in folders:
        parser.error(f"--heads_from: {options.heads_from} is none of {', '.join(folders)}")
    return options


def folders_and_weights(options: argparse.Namespace) -> tuple[list[str], list[float]]:
    """Return the adapter folders, and the weight of each adapter."""
    if options.subtract:
        return options.subtract, [1.0, -1.0]
    if options.average:
        return options.average, [1 / len(options.average)] * len(options.average)
    return options.add, options.weights or [1.0] * len(options.add)


def table(total: Combination) -> str:
    """Return a line for every module: its rank, ‖ΔW‖ of the exact sum, and ‖ΔW − ΔWᵣ‖ / ‖ΔW‖."""
    header = ["module", "rank", "exact rank", "|dW|", "lost"]
    rows = [[row.name, str(row.rank), str(row.exact_rank), f"{row.norm:.4g}", f"{row.residual:.2e}"] for row in total.rows]
    lost = f"lost of all updates together: {total.residual:.2e}"
    return f"{aligned_table(Table(header, rows))}\n\n{lost}"


if __name__ == "__main__":
    run_command(main)
