"""Prove and measure the CUDA path in one command: under ten minutes on one data-centre GPU.

    python scripts/benchmarks/gpu_acceptance.py --json gpu.json              all that needs no input
    python scripts/benchmarks/gpu_acceptance.py --model MINILM --dataset EMOTION      and a training
    python scripts/benchmarks/gpu_acceptance.py --only graph-vs-eager memory           some parts
    CUDA_VISIBLE_DEVICES=1 python scripts/benchmarks/gpu_acceptance.py                 another GPU

Proofs: the GPU tests, recorded graphs against eager steps, torch's attention kernels against the
formula, batches by row numbers against padded ones, models that can't be captured, no wait
of the host, memory, out of memory, resume, and the losses of a CPU.

Measures: tokens/s against PEFT + Trainer at batch 32, 256 and 1,024, a real training, prediction
against the pipeline, what each lever is worth, and a profile.

Gates: all proofs, and at least 4, 1.5 and 1.0 times PEFT at its best (bf16, batches grouped by
length). The exit code is 1 if one is missed.

Each part runs in a process of its own, with a budget of seconds. A part that fails is reported, and
the others still run. Without a GPU, the parts that need one are skipped by name, the others run in
small form, and nothing is judged. The rows of PEFT need the extra `benchmark` (peft, accelerate);
without it they are skipped by name.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_scratch.commands.benchmarks.acceptance import (
    PARTS,
    AcceptanceOptions,
    Result,
    Setup,
    choose_device,
    is_accepted,
    line_of,
    remarks,
    render_results,
    run_parts,
    verdict,
)
from lora_scratch.commands.benchmarks.machine import describe_machine, machine_in_words
from lora_scratch.errors import LoraScratchError
from lora_scratch.runs import (
    check_reports,
    command_line,
    flag_parser,
    parse_flags,
    restart_command,
    run_command,
)
from lora_scratch.runtime.atomic import write_json


def main() -> None:
    """Run every part in turn, or just one in this process."""
    (options,) = parse_flags(flag_parser((AcceptanceOptions,), str(__doc__)))
    check_reports(options)
    setup = Setup(choose_device(options.device), options.model, options.dataset)
    if options.part:
        (part,) = (part for part in PARTS if part.name == options.part)
        finding = asdict(part.run(setup))
        print(json.dumps({"finding": finding, "machine": describe_machine(setup.device)}))
        return
    results = run_all(options, setup)
    about = [render_results(results), *remarks(results), machine_of(results), verdict(results)]
    print("", *about, sep="\n")
    if options.json:
        write_json(Path(options.json), as_json(results))
    if not is_accepted(results):
        raise LoraScratchError(verdict(results), remedy="the table says why")


def run_all(options: AcceptanceOptions, setup: Setup) -> list[Result]:
    """Run the chosen parts. Print a line as soon as one is done."""
    chosen = [part for part in PARTS if part.name in options.only]
    command = [*restart_command(), *sys.argv[1:]]
    results = []
    for result in run_parts(chosen, setup, command, limit_s=60 * options.minutes):
        print(line_of(result), flush=True)
        results.append(result)
    return results


def machine_of(results: list[Result]) -> str:
    """Return one line about the machine, as the first part that ran saw it."""
    machines = (machine_in_words(dict(result.machine)) for result in results if result.machine)
    return next(machines, "no part ran")


def as_json(results: list[Result]) -> dict[str, Any]:
    """Return the command, every result, and whether the run is accepted."""
    command = command_line()
    accepted = is_accepted(results)
    shown = [asdict(result) for result in results]
    return {"command": command, "accepted": accepted, "results": shown}


if __name__ == "__main__":
    run_command(main)
