"""Table 2 of the LoRA paper (GLUE) on your model: full fine-tuning, BitFit and LoRA, by two protocols.

    lora-scratch table2 --model roberta-base --tasks rte mrpc stsb cola --output_dir checkpoints/table2
    lora-scratch table2 --model DIR --tasks mrpc=FOLDER sick=FOLDER --seeds 0 1 2 --output_dir DIR
    lora-scratch table2 --model DIR --tasks rte cola --data GLUE --output_dir DIR --epochs 10
    lora-scratch table2 --config job.yaml --output_dir DIR

A task is one of {tasks}. Its rows come from the folder after `=`, or from its folder in
--data (GLUE's archive as it is: CoLA, MNLI, ...), or from the hub (nyu-mll/glue:TASK). MNLI's matched and mismatched
validation rows count together, as in the paper. Everything is measured on the validation rows:
the paper's protocol reports the best epoch on these rows, the honest one the best epoch on a tenth of
the training rows, which it holds out. Flags that are not listed here are those of the command train;
the defaults are the recommended recipe. The paper's own settings for LoRA are about
    --preset basic --targets query value --rank 8 --alpha 8 --learning_rate 5e-4 --epochs 30
and it starts MRPC, RTE and STS-B from the adapter of MNLI: --flags_of lora "--start_from ADAPTER".

Every run has the folder OUTPUT_DIR/TASK/PROTOCOL/METHOD/seed-N. An interrupted study resumes where it
stopped. Writes table2.json and table2.md to OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from transformers.hf_argparser import string_to_bool

from lora_scratch.errors import ConfigError, printable
from lora_scratch.evaluation import markdown_table
from lora_scratch.runs import (
    RECOMMENDED,
    TRAIN_OPTIONS,
    argument_parser,
    check_given,
    command_line,
    flag_parser,
    run_command,
    with_config,
)
from lora_scratch.runtime.atomic import write_json, write_text
from lora_scratch.study.methods import METHODS, Run, RunResult, read_run_result
from lora_scratch.study.sweep import MOST_PROCESSES, check_same_flags, train_all
from lora_scratch.study.table2 import PROTOCOLS, TASKS, data_flags, folder_of, table_of, write_rows

TRAIN = Path(__file__).parents[1] / "train.py"
HUB = "nyu-mll/glue"
DEFAULT_METHODS = ("full", "bitfit", "lora")
# flags of train that the study sets
OURS = ("--seed", "--output_dir", "--resume", "--trainable", "--dataset", "--task", "--best_by", "--pair_column")


def main() -> None:
    """Write the rows of every protocol, run the missing trainings, then write the table."""
    options, others = parse_arguments()
    folder, sources = Path(options.output_dir), sources_of(options)
    own = [word for pair in options.flags_of for word in pair]
    check_same_flags(folder, ["--model", options.model, *others, *own])
    for task, source in sources.items():
        place = folder / task / "rows"
        for line in write_rows(TASKS[task], source, place, skip_bad_rows=options.skip_bad_rows):
            print(printable(f"{task}: {line}"))
    results = train_missing(options, others, sources)
    table = markdown_table(table_of(results))
    write_text(folder / "table2.md", f"```bash\n{command_line()}\n```\n\n{table}\n")
    write_json(
        folder / "table2.json", {"paper": {name: dict(TASKS[name].paper) for name in sources}, "runs": entries_of(results)}
    )
    print(table)


def entries_of(results: Mapping[tuple[str, str, str], Sequence[RunResult]]) -> list[dict[str, Any]]:
    """Return the results of all runs as JSON."""
    return [
        {"task": task, "protocol": protocol, **result.as_json()}
        for (task, _, protocol), runs in results.items()
        for result in runs
    ]


def train_missing(
    options: argparse.Namespace, others: list[str], sources: dict[str, str]
) -> dict[tuple[str, str, str], list[RunResult]]:
    """Run the trainings that have no report yet; return the results of all seeds by task, method and protocol."""
    folder, own = Path(options.output_dir), {method: shlex.split(flags) for method, flags in options.flags_of}
    groups = {
        key: ([Run(key[1], seed) for seed in options.seeds], folder / key[0] / key[2])
        for key in product(sources, options.methods, PROTOCOLS)
    }
    shared, flags = ["--preset", RECOMMENDED, "--model", options.model], {}
    for (task, method, protocol), (runs, place) in groups.items():
        data = data_flags(TASKS[task], folder / task / "rows" / protocol)
        for run in runs:
            flags[run.place(place)] = [*shared, *data, *others, *run.flags(), *own.get(method, [])]
    train_all(TRAIN, flags, processes=options.processes)
    return {key: [read_run_result(run, place) for run in runs] for key, (runs, place) in groups.items()}


def sources_of(options: argparse.Namespace) -> dict[str, str]:
    """Return where the rows of every task are.

    Raises:
        ConfigError: an unknown task.
    """
    sources = {}
    for entry in options.tasks:
        name, named, place = entry.partition("=")
        if name not in TASKS:
            raise ConfigError(f"there is no task {name!r}", where="--tasks", expected=", ".join(TASKS))
        if not named:
            place = str(folder_of(name, Path(options.data))) if options.data else f"{HUB}:{name}"
        sources[name] = place
    return sources


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Read and check the flags of the study; return the flags of train with them."""
    parser = argument_parser((__doc__ or "").format(tasks=", ".join(TASKS)))
    trained = [name for name, method in METHODS.items() if method.measured_on is None]
    parser.add_argument("--config", metavar="FILE", help="flags from this YAML or JSON file, those of train too")
    parser.add_argument("--model", required=True, help="hub name or folder of a pretrained encoder, or `demo`")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK[=FOLDER]", help="tasks of the table")
    parser.add_argument("--data", metavar="FOLDER", help="folder with a folder of rows for every task")
    parser.add_argument("--output_dir", required=True, help="folder of the study, new or started before")
    parser.add_argument(
        "--methods", nargs="+", choices=trained, default=list(DEFAULT_METHODS), help="rungs of compare (full bitfit lora)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of each method with each (0 1 2)")
    parser.add_argument(
        "--flags_of", nargs=2, action="append", default=[], metavar=("METHOD", "FLAGS"), help="flags for one method alone"
    )
    meaning = "leave out training and validation rows that can't be used, and list them"
    parser.add_argument("--skip_bad_rows", nargs="?", type=string_to_bool, const=True, default=False, help=meaning)
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time (default: 1)")
    options, others = parser.parse_known_args(with_config(sys.argv[1:], parser, flag_parser(TRAIN_OPTIONS, "")))
    check_given(parser, options)
    if not 1 <= options.processes <= MOST_PROCESSES:
        parser.error(f"--processes: found {options.processes}; expected 1 to {MOST_PROCESSES}")
    if unknown := [method for method, _ in options.flags_of if method not in options.methods]:
        parser.error(f"--flags_of {unknown[0]}: it is not among the methods ({' '.join(options.methods)})")
    if taken := [flag for flag in others if flag.split("=")[0] in OURS]:
        parser.error(f"{taken[0]} is set for each training: use --tasks, --methods and --seeds")
    return options, others


if __name__ == "__main__":
    run_command(main)
