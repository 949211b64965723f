"""Train variants of an adapter on the same rows with the same budget, several seeds each, and put them into one table.

    python scripts/compare.py --model DIR --dataset DIR --output_dir checkpoints/variants
    python scripts/compare.py --model DIR --dataset DIR --output_dir DIR --rungs lora dora --seeds 0 1 2 --epochs 1

Every flag that is not listed here goes to train.py. Each run is a run folder, OUTPUT_DIR/RUNG/seed-N: an interrupted
comparison goes on where it stopped, and one with more rungs or seeds adds to it. Writes comparison.json, comparison.md and
report.html to OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lora_scratch.errors import LoraScratchError
from lora_scratch.evaluation import markdown_table
from lora_scratch.jobs import run_command
from lora_scratch.jobs.ladder import RUNGS, Climb, summarise
from lora_scratch.jobs.trainings import check_same_flags
from lora_scratch.reporting import comparison_page, offer_page
from lora_scratch.runtime.atomic import read_json, write_json, write_text

TRAIN = Path(__file__).with_name("train.py")
OURS = ("--seed", "--output_dir")  # flags of train.py that a comparison sets itself


def main() -> None:
    """Every run that is not there yet, then the table of all."""
    options, others = parse_arguments()
    folder = Path(options.output_dir)
    check_same_flags(folder, others)
    wanted = [(rung, seed) for seed in options.seeds for rung in options.rungs]
    with tqdm(wanted, desc="compare", unit="run") as bar:  # closed before an error is printed
        climbs = [climb(rung, seed, folder, others) for rung, seed in bar]
    summary, runs = summarise(climbs), [each.as_json() for each in climbs]
    table = markdown_table(summary)
    write_json(folder / "comparison.json", runs)
    write_text(folder / "comparison.md", table + "\n")
    print(table)
    source = shlex.join(["python", *sys.argv])
    print(offer_page(folder / "report.html", lambda: comparison_page(runs, summary, source=source)))


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and those for train.py."""
    listed = "\n".join(
        f"  {name:<10} {rung.meaning}: {shlex.join(rung.flags) or 'as given'}" for name, rung in RUNGS.items()
    )
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nrungs:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", required=True, help="folder of the comparison, new or begun before")
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS), help="what to compare (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of each rung with each (0 1 2)")
    options, others = parser.parse_known_args()
    taken = [flag for flag in others if flag.split("=")[0] in OURS]
    if taken:
        parser.error(f"{taken[0]} is set for each run: use --seeds and --output_dir")
    return options, others


def climb(rung: str, seed: int, folder: Path, others: list[str]) -> Climb:
    """One run of train.py, unless it is there already."""
    place = folder / rung / f"seed-{seed}"
    cost = place / "cost.json"
    if not cost.exists():  # it is written last
        shutil.rmtree(place, ignore_errors=True)  # what an interrupted comparison left
        write_json(cost, run_train([*others, *RUNGS[rung].flags, "--seed", str(seed), "--output_dir", str(place)], place))
    report: dict[str, Any] = read_json(place / "report.json")
    size = (place / "adapter" / "adapter_model.safetensors").stat().st_size
    return Climb(rung, seed, report, read_json(cost)["cpu_seconds"], size)


def run_train(flags: list[str], place: Path) -> dict[str, float]:
    """What the run cost; its output goes to a file beside it.

    Raises:
        LoraScratchError: it failed.
    """
    output = place.with_suffix(".log")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file:
        child = subprocess.Popen([sys.executable, str(TRAIN), *flags], stdout=file, stderr=file)  # noqa: S603  (our own flags)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            raise
    if status:
        lines = output.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise LoraScratchError(
            lines[-1].removeprefix("error: "), where=f"train.py for {place}", remedy=f"{output} has all it said"
        )
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    run_command(main)
