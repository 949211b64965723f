"""Compare methods from the untouched model to full fine-tuning: same rows, same budget.

    lora-scratch compare --model DIR --dataset DIR --output_dir checkpoints/ladder
    lora-scratch compare --model DIR --dataset DIR --output_dir DIR --rungs probe lora full --curve 250 1000 4000
    lora-scratch compare --model DIR --dataset DIR --output_dir DIR --rungs lora dora pissa --against lora
    lora-scratch compare --config comparison.yaml --output_dir checkpoints/ladder

A rung is one of the methods. All rungs are tested against one of them, row by row. Flags that are
not listed here are those of the command train; their defaults are those of `--preset basic`, unless
you name another. A run has the folder OUTPUT_DIR/RUNG/seed-N. An interrupted comparison resumes where
it stopped, and a finished one takes more rungs, seeds or numbers of rows. Writes comparison.json,
comparison.md and report.html to OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lora_scratch.evaluation import markdown_table
from lora_scratch.reporting import write_page
from lora_scratch.runs import (
    BASIC,
    TRAIN_OPTIONS,
    argument_parser,
    check_given,
    command_line,
    flag_parser,
    run_command,
    with_config,
)
from lora_scratch.runtime.atomic import write_json, write_text
from lora_scratch.study.comparison import curve_table, paired_table, paired_tests, summarize
from lora_scratch.study.comparison_page import comparison_page
from lora_scratch.study.methods import DEFAULT_METHODS, METHODS, Run, read_run_result
from lora_scratch.study.sweep import MOST_PROCESSES, check_same_flags, train_all

TRAIN = Path(__file__).parents[1] / "train.py"
# flags of train that a comparison sets
OURS = ("--seed", "--output_dir", "--resume", "--linear_probe", "--trainable")


def main() -> None:
    """Run the missing trainings, then write the tables of all runs."""
    options, others = parse_arguments()
    folder = Path(options.output_dir)
    check_same_flags(folder, others)
    counts = options.curve or [None]
    runs = [Run(rung, seed, n) for n in counts for seed in options.seeds for rung in options.rungs]
    own = {rung: shlex.split(flags) for rung, flags in options.flags_of}
    for method in dict.fromkeys(run.trained_method for run in runs):
        check_same_flags(folder / method, own.get(method, []))
    flags = {}
    for run in runs:
        flags[run.place(folder)] = ["--preset", BASIC, *others, *run.flags(), *own.get(run.trained_method, [])]
    train_all(TRAIN, flags, processes=options.processes)

    results = [read_run_result(run, folder) for run in runs]
    tests = paired_tests(results, options.against)
    tables = [summarize(results), *([paired_table(tests)] if tests else [])]
    tables += [curve_table(results)] if options.curve else []
    text = "\n\n".join(markdown_table(table) for table in tables)
    entries = {"runs": [result.as_json() for result in results]}
    entries["duels"] = [test.as_json() for test in tests]
    write_json(folder / "comparison.json", entries)
    write_text(folder / "comparison.md", text + "\n")
    print(text)
    print(write_page(folder / "report.html", comparison_page(results, tests, source=command_line())))


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Read and check the flags of the comparison; return the flags of train with them."""
    parser = build_parser()
    options, others = parser.parse_known_args(with_config(sys.argv[1:], parser, flag_parser(TRAIN_OPTIONS, "")))
    for name in ("rungs", "seeds", "curve"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name) or [])))
    check_given(parser, options)
    if options.against is None:
        usual = [rung for rung in ("probe", "lora", "untrained") if rung in options.rungs]
        options.against = [*usual, *options.rungs][0]
    if options.against not in options.rungs:
        parser.error(f"--against {options.against}: it is not among the rungs ({' '.join(options.rungs)})")
    trained = [name for name, method in METHODS.items() if method.measured_on is None]
    if unknown := [rung for rung, _ in options.flags_of if rung not in trained]:
        parser.error(f"--flags_of {unknown[0]}: no rung with a training of its own; choose from {', '.join(trained)}")
    if not 1 <= options.processes <= MOST_PROCESSES:
        parser.error(f"--processes: found {options.processes}; expected 1 to {MOST_PROCESSES}")
    if any(rows < 1 for rows in options.curve or []):
        parser.error("--curve: expected at least 1")
    taken = [flag for flag in others if flag.split("=")[0] in OURS]
    if taken:
        parser.error(f"{taken[0]} is set for each run: use --seeds, --rungs and --output_dir")
    if options.curve and any(flag.split("=")[0] == "--limit_train" for flag in others):
        parser.error("--limit_train is set for each run by --curve")
    return options, others


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the comparison's own flags."""
    listed = "\n".join(
        f"  {name:<12} {m.meaning}: {shlex.join(m.flags) or f'from the run of {m.measured_on}'}"
        for name, m in METHODS.items()
    )
    parser = argument_parser(f"{__doc__}\nrungs:\n{listed}")
    parser.add_argument("--config", metavar="FILE", help="flags from this YAML or JSON file, those of train too")
    parser.add_argument("--output_dir", required=True, help="folder of the comparison, new or started before")
    parser.add_argument(
        "--rungs",
        nargs="+",
        choices=METHODS,
        default=list(DEFAULT_METHODS),
        help=f"methods to compare (default: {' '.join(DEFAULT_METHODS)})",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of each rung with each (0 1 2)")
    parser.add_argument("--against", choices=METHODS, help="the rung that the others are tested against (default: probe)")
    parser.add_argument("--curve", nargs="+", type=int, metavar="N", help="all of it with the first N training rows, each N")
    parser.add_argument(
        "--flags_of",
        nargs=2,
        action="append",
        default=[],
        metavar=("RUNG", "FLAGS"),
        help='flags for one rung alone, after all others: --flags_of full "--learning_rate 5e-5"',
    )
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time (default: 1)")
    return parser


if __name__ == "__main__":
    run_command(main)
