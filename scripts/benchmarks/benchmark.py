"""Train and predict with lora-scratch and with PEFT + Trainer on the same work, side by side, and compare.

    python scripts/benchmarks/benchmark.py --json figures.json                  the default: a DistilBERT's size, under ten minutes
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR            any encoder, any rows
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR --measures race --goal 0.905 --split test --epochs 3
    python scripts/benchmarks/benchmark.py --model DIR --dataset DIR --measures job --contenders ours-plain-bf16 peft-bf16 --rounds 1

Each measurement runs in a process of its own, after a look at whether the machine is idle (a `*` in the tables where it was
not); rounds are interleaved. Measures: `training` (tokens/s, peak memory), `floor` (the bare matrix products of a step),
`prediction`, `start-up`, `peak` (memory), `growth` (of it with 100 times the rows), `race` (seconds to an accuracy), `job`
(all epochs, then test metrics). Needs the extra `benchmark` (peft, accelerate).
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lora_scratch.commands.benchmarks.figures import Figures
from lora_scratch.commands.benchmarks.measures import MEASURES, BenchmarkOptions, tasks_of
from lora_scratch.commands.benchmarks.rounds import run_rounds
from lora_scratch.commands.benchmarks.tables import render_figures, render_targets
from lora_scratch.commands.benchmarks.targets import TARGETS
from lora_scratch.commands.benchmarks.work import BenchmarkModel, BenchmarkRows, is_default_work, open_work

from lora_scratch.adapter import LoRAConfig
from lora_scratch.evaluation import versions
from lora_scratch.runs import check_file, parse, run_command
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import use_threads
from lora_scratch.training import TrainingConfig


def main() -> None:
    """Every measurement in turn, or just one in this process."""
    kinds = (BenchmarkModel, BenchmarkRows, LoRAConfig, TrainingConfig, BenchmarkOptions)
    model, data, adapter, training, options = parse(kinds, str(__doc__))
    check_file(options.json)
    use_threads(training.threads)
    if options.only:
        measure, _, contender = options.only.partition(":")
        work = open_work(model, data, adapter, training, steps=options.steps)
        print(json.dumps(MEASURES[measure](contender, work, options)))
        return
    command = [sys.executable, *sys.argv]
    own = shlex.split(options.flags_of_ours or "")
    figures = Figures(run_rounds(tasks_of(options), command, rounds=options.rounds, flags_of_ours=own))
    is_default = is_default_work(model, data, adapter, training) and not own
    targets = [target.judge(figures, is_default_work=is_default) for target in TARGETS]
    print(render_figures(figures), render_targets(targets), machine_in_words(figures), sep="\n\n")
    if options.json:
        settings = {type(each).__name__: vars(each) for each in (model, data, adapter, training, options)}
        found = {"figures": [each.as_json() for each in figures.all], "summary": figures.summary(), "targets": targets}
        about = {"command": shlex.join(["python", *sys.argv]), "settings": settings, "machine": machine()}
        write_json(Path(options.json), {**about, **found})


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    packages = {**versions(), **{name: version(name) for name in ("peft", "accelerate")}}
    cpu = {"cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"versions": packages, "platform": platform.platform(), **cpu}


def machine_in_words(figures: Figures) -> str:
    """One line: what ran, and how often nothing else did."""
    found = machine()
    busy = sum(not each.machine.idle for each in figures.all)
    idle = (
        f"{busy} of {len(figures.all)} measurements on a machine that was not idle (*)" if busy else "the machine was idle"
    )
    names = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{found['cores']} CPUs ({found['cpu']}), {found['threads']} threads; {names}; {idle}"


if __name__ == "__main__":
    run_command(main)
