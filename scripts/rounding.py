"""What narrow dtypes cost an adapter: three tables in Markdown, in well under a minute.

python scripts/rounding.py                        on random weights in the shapes of DistilBERT
python scripts/rounding.py --model demo           on weights of a model: a folder, a hub name or demo
python scripts/rounding.py --rank 64 --json rounding.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lora_scratch.errors import ConfigError
from lora_scratch.jobs import argument_parser, check_file, check_given, open_base, run_command
from lora_scratch.jobs.rounding_figures import (
    CYCLES,
    STANDARD_DEVIATION,
    Drift,
    LostUpdate,
    OutputError,
    drifts,
    lost_updates,
    output_errors,
    random_weights,
    weights_of,
)
from lora_scratch.runtime.atomic import write_json

RATIO = "‖ΔW‖/‖W‖"
MERGING = (
    "Merging: W + ΔW is summed in float32 and rounded once. Survived is the part of ΔW in what was changed; lost is\n"
    "the norm of what that is off by / ‖ΔW‖; unchanged entries have the bits that they have without the update."
)


def main() -> None:
    """Measure, print, write."""
    options = parse()
    check_file(options.json)
    weights = (
        random_weights(options.seed)
        if options.model is None
        else weights_of(open_base(options.model, labels=["a", "b"]).model)
    )
    if not weights:
        raise ConfigError("the model has no linear layer outside its head", where=f"--model {options.model}")
    widest = min(min(weight.shape) for weight in weights.values())
    if not 1 <= options.rank <= widest:
        raise ConfigError(
            f"found {options.rank}", where="--rank", expected=f"1 to {widest}, the smallest side of the weights"
        )
    lost = lost_updates(weights, rank=options.rank, seed=options.seed)
    drift = drifts(weights, rank=options.rank, seed=options.seed)
    errors = output_errors(weights, ranks=sorted({options.rank, min(64, widest)}), seed=options.seed)
    source = f"normal weights of standard deviation {STANDARD_DEVIATION}" if options.model is None else options.model
    print(f"Weights: {source}: {', '.join(weights)}. Rank {options.rank}, seed {options.seed}.\n")
    print("\n\n".join([lost_table(lost), drift_table(drift), error_table(errors)]))
    if options.json:
        record = {
            "weights": list(weights),
            "rank": options.rank,
            "seed": options.seed,
            "lost_updates": [asdict(row) for row in lost],
            "drift": [asdict(row) for row in drift],
            "output_errors": [asdict(row) for row in errors],
        }
        write_json(Path(options.json), record)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", help="measure on weights of this model (default: random ones in DistilBERT's shapes)")
    parser.add_argument("--rank", type=int, default=8, help="rank of the updates (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write every figure to this file too")
    options = parser.parse_args()
    check_given(parser, options)
    return options


def lost_table(rows: Sequence[LostUpdate]) -> str:
    """What is left of an update after rounding W + ΔW."""
    return markdown(
        MERGING,
        ["stored in", "base in", RATIO, "survived", "lost", "entries unchanged"],
        [
            [row.dtype, row.base_dtype, f"{row.ratio:g}", f"{row.survived:.1%}", f"{row.error:.1%}", f"{row.unchanged:.1%}"]
            for row in rows
        ],
    )


def drift_table(rows: Sequence[Drift]) -> str:
    """What merging and unmerging leaves of the base."""
    return markdown(
        f"Base entries that differ after {CYCLES} merges and unmerges.",
        ["dtype", RATIO, "ΔW added and subtracted", "folded weight dropped (lora-scratch)"],
        [[row.dtype, f"{row.ratio:g}", f"{row.subtracted:.2%}", f"{row.dropped:.2%}"] for row in rows],
    )


def error_table(rows: Sequence[OutputError]) -> str:
    """How far outputs are off."""
    return markdown(
        f"Largest error of an output / rms of the outputs, against float64 on the same rounded tensors; {RATIO} = 0.1.",
        ["dtype", "rank", "adapter apart", "merged, rounded once", "ΔW rounded, then added"],
        [[row.dtype, str(row.rank), f"{row.apart:.1e}", f"{row.merged:.1e}", f"{row.rounded_twice:.1e}"] for row in rows],
    )


def markdown(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A caption and a table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([caption, "", *lines])


if __name__ == "__main__":
    run_command(main)
