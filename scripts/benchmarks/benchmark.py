"""Train and predict with lora-scratch and with PEFT + Trainer on the same work, and compare.

    python scripts/benchmarks/benchmark.py --json figures.json        a DistilBERT's size (default)
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR  any encoder, any rows
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR --epochs 3 \\
        --measures race --goal 0.905 --split test
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR --rounds 1 \\
        --measures job --contenders ours-plain-bf16 peft-bf16
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR --text_column A --pair_column B \\
        --rounds 3 --measures job --contenders peft-best full-best ours \\
        --flags_of_full "--learning_rate 2e-4"                        pairs, three seeds

The default takes under ten minutes. Each measurement runs in a process of its own. Before it, the
benchmark checks whether the machine is idle; a `*` in the tables says that it was not. Rounds are
interleaved. Measures:

    training    tokens/s, and peak memory
    floor       tokens/s if a step were nothing but its matrix products
    prediction  texts/s
    start-up    milliseconds of the import
    peak        peak memory
    growth      peak memory with 100 times the rows
    race        seconds to a score: the headline of the task
    job         all epochs, then the task's scores on the test rows; every round has the next seed

Needs the extra `benchmark` (peft, accelerate).
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_scratch.adapter import LoRAConfig
from lora_scratch.commands.benchmarks.figures import Figures
from lora_scratch.commands.benchmarks.machine import (
    describe_machine,
    machine_in_words,
    machine_kind,
)
from lora_scratch.commands.benchmarks.measures import MEASURES, BenchmarkOptions, tasks_of
from lora_scratch.commands.benchmarks.rounds import FULL, OURS, run_rounds
from lora_scratch.commands.benchmarks.tables import idle_words, render_figures
from lora_scratch.commands.benchmarks.work import BenchmarkModel, BenchmarkRows, open_work
from lora_scratch.runs import check_reports, command_line, parse, restart_command, run_command
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device, use_threads
from lora_scratch.training import TrainingConfig

OPTIONS = (BenchmarkModel, BenchmarkRows, LoRAConfig, TrainingConfig, BenchmarkOptions)


def main() -> None:
    """Make every measurement in turn, or just one in this process."""
    settings = parse(OPTIONS, str(__doc__))
    *of_work, training, options = settings
    check_reports(*settings)
    use_threads(training.threads)
    if options.only:
        measure, _, contender = options.only.partition(":")
        work = open_work(*of_work, training, steps=options.steps)
        print(json.dumps(MEASURES[measure](contender, work, options)))
        return
    figures = run_all(options, seed=training.seed)
    device = resolve_device(training.device)
    machine = describe_machine(device)
    about = f"{machine_in_words(machine)}; {idle_words(figures)}"
    print(render_figures(figures, machine=machine_kind(device)), about, sep="\n\n")
    if options.json:
        write_json(Path(options.json), as_json(settings, machine, figures))


def run_all(options: BenchmarkOptions, *, seed: int) -> Figures:
    """Make every measurement in a process of its own, by this command with `--only`."""
    flags_of = {OURS: shlex.split(options.flags_of_ours or ""), FULL: shlex.split(options.flags_of_full or "")}
    command = [*restart_command(), *sys.argv[1:]]
    tasks = tasks_of(options)
    return Figures(run_rounds(tasks, command, rounds=options.rounds, flags_of=flags_of, seed=seed))


def as_json(settings: Sequence[Any], machine: dict[str, Any], figures: Figures) -> dict[str, Any]:
    """Return the command, its settings, the machine, every figure, and their summary."""
    return {
        "command": command_line(),
        "settings": {type(options).__name__: vars(options) for options in settings},
        "machine": machine,
        "figures": [figure.as_json() for figure in figures.all],
        "summary": figures.summary(),
    }


if __name__ == "__main__":
    run_command(main)
