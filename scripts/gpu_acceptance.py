"""Prove and measure the CUDA path in one command: under eight minutes on one data-centre GPU.

    python scripts/gpu_acceptance.py --json gpu.json                          everything that needs no input
    python scripts/gpu_acceptance.py --model MINILM --dataset EMOTION         and a real training to its end
    python scripts/gpu_acceptance.py --only graph-vs-eager memory             some of the parts
    CUDA_VISIBLE_DEVICES=1 python scripts/gpu_acceptance.py                   another GPU than the first

Proofs: the GPU tests, recorded graphs against eager steps, models that can't be captured, no wait of the host, memory,
out of memory, resume, and a CPU's losses. Measures: tokens/s against PEFT + Trainer at batch 32, 256 and 1,024, a real
training, prediction against the pipeline, and a profile. Gates: all proofs, and at least 4, 1.5 and 1.0 times PEFT at its
best (bf16, batches grouped by length). The exit code is 1 if one is missed.

Each part runs in a process of its own with a budget of seconds; one that fails is reported, and the others run all the
same. Without a GPU, parts that need one are skipped by name, the others run in small form, and nothing is judged. The rows
of PEFT need the extra `benchmark` (peft, accelerate); without it they are skipped by name.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_scratch.benchmark.acceptance import (
    PARTS,
    AcceptanceOptions,
    Result,
    Setup,
    choose_device,
    describe_machine,
    is_accepted,
    line_of,
    machine_in_words,
    remarks,
    render_results,
    run_parts,
    verdict,
)
from lora_scratch.errors import LoraScratchError
from lora_scratch.jobs import check_file, flag_parser, parse_flags, run_command
from lora_scratch.runtime.atomic import write_json


def main() -> None:
    """Every part in turn, or just one in this process."""
    (options,) = parse_flags(flag_parser((AcceptanceOptions,), str(__doc__)))
    check_file(options.json)
    setup = Setup(choose_device(options.device), options.model, options.dataset)
    if options.part:
        (part,) = (part for part in PARTS if part.name == options.part)
        finding = asdict(part.run(setup))
        print(json.dumps({"finding": finding, "machine": describe_machine(setup.device)}))
        return
    results = run_all(options, setup)
    print("", render_results(results), *remarks(results), machine_of(results), verdict(results), sep="\n")
    if options.json:
        write_json(Path(options.json), as_json(results))
    if not is_accepted(results):
        raise LoraScratchError(verdict(results), remedy="the table says why")


def run_all(options: AcceptanceOptions, setup: Setup) -> list[Result]:
    """The chosen parts, each with a line as soon as it is done."""
    chosen = [part for part in PARTS if part.name in options.only]
    results = []
    for result in run_parts(chosen, setup, [sys.executable, *sys.argv], limit_s=60 * options.minutes):
        print(line_of(result), flush=True)
        results.append(result)
    return results


def machine_of(results: list[Result]) -> str:
    """The machine as the first part that ran saw it."""
    return next((machine_in_words(dict(each.machine)) for each in results if each.machine), "no part ran")


def as_json(results: list[Result]) -> dict[str, Any]:
    """The command, every result, and whether the run is accepted."""
    command = shlex.join(["python", *sys.argv])
    return {"command": command, "accepted": is_accepted(results), "results": [asdict(each) for each in results]}


if __name__ == "__main__":
    run_command(main)
