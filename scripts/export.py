"""Fold an adapter into its base: a plain transformers model, as fast as the base, that needs neither PEFT nor this project.
Or part it for servers of many adapters, which take no head: a base with the trained head, and A and B alone.

python scripts/export.py checkpoints/demo/adapter --merged exported
python scripts/export.py checkpoints/demo/adapter --merged exported --dtype bfloat16      half the size, and what that costs
python scripts/export.py checkpoints/demo/adapter --merged exported --dtype float16 --tolerance 0.005 --dataset rows.csv
python scripts/export.py checkpoints/demo/adapter --merged exported --format onnx     model.onnx and the tokenizer
python scripts/export.py checkpoints/demo/adapter --split served      served/base and served/adapter
python scripts/export.py checkpoints/demo/adapter --push owner/name   the adapter and its card to the hub; private at first

Before anything is written, the merged model has to say what the adapter model says: on validation rows, every logit within
the tolerance. Else the exit code is 1. The figures go to merge.json in the folder.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from lora_scratch.adapter import dequantize_base
from lora_scratch.deploy.formats import FORMATS, check_format, write_plain
from lora_scratch.deploy.merge_check import DTYPES, TOLERANCES, MergeCheck, merge_check_rows, merge_if_equal
from lora_scratch.deploy.split import save_split
from lora_scratch.runs import (
    argument_parser,
    check_free,
    check_given,
    local_adapter,
    open_adapter,
    push_adapter,
    run_command,
)
from lora_scratch.runtime.atomic import new_folder, write_json
from lora_scratch.runtime.device import resolve_device

RECORD = "merge.json"
READERS = {
    "transformers": "AutoModelForSequenceClassification.from_pretrained loads it",
    "program": "torch.export.load('model.pt2').module()(input_ids, attention_mask) gives its logits",
    "onnx": "onnxruntime.InferenceSession('model.onnx').run(None, {'input_ids': i, 'attention_mask': m}) gives its logits",
}


def main() -> None:
    """Load, fold, compare, write; or load, part, write; or load and hand on."""
    options = parse()
    if options.push:
        open_adapter(options.adapter, model=options.model)  # what does not load is not handed on
        print(push_adapter(local_adapter(options.adapter), options.push, public=options.public))
        return
    place = check_free(Path(options.merged or options.split), flag="--merged" if options.merged else "--split")
    device = resolve_device(options.device)
    check_format(options.format, dtype=options.dtype)
    saved = open_adapter(options.adapter, model=options.model)
    if options.dequantize:
        dequantize_base(saved.base.model)
    if options.split:
        needs = save_split(saved, place)
        print("\n".join(f"{name:<24} {value}" for name, value in needs.items()))
        print(f"\n{place / 'base'}: an ordinary model; {place / 'adapter'}: LoRA for it, in PEFT's format")
        return
    rows, source = (None, "") if options.no_rows else merge_check_rows(saved, dataset=options.dataset, count=options.rows)
    tolerance = TOLERANCES[options.dtype] if options.tolerance is None else options.tolerance
    gate = merge_if_equal(saved, rows=rows, source=source, dtype=options.dtype, tolerance=tolerance, device=device)
    print(table(gate))
    gate.check()
    with new_folder(place) as folder:
        write_plain(saved.base, folder, form=options.format, tolerance=TOLERANCES[options.dtype])
        write_json(folder / RECORD, gate.record())
    print(f"\n{place}: {READERS[options.format]}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("adapter", help="adapter folder, as scripts/train.py writes it, or hub:owner/name")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--merged", metavar="DIR", help="where the plain model goes; must not hold files yet")
    goal.add_argument("--split", metavar="DIR", help="where a base with the trained head and LoRA alone go, for servers")
    goal.add_argument("--push", metavar="OWNER/NAME", help="the adapter itself goes to this repository of the hub")
    parser.add_argument("--public", action="store_true", help="a repository that --push makes is public, not private")
    parser.add_argument("--model", help="base model, if not the one the adapter names")
    parser.add_argument(
        "--format",
        default=FORMATS[0],
        choices=FORMATS,
        help="what --merged writes: a folder for transformers (default), model.pt2 of torch.export, or model.onnx",
    )
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES), help="what the weights are stored in")
    defaults = ", ".join(f"{value:g} in {name}" for name, value in TOLERANCES.items())
    meaning = f"the largest error of a logit / rms of all logits that is let through (default: {defaults})"
    parser.add_argument("--tolerance", type=float, help=meaning)
    parser.add_argument("--dataset", help="other rows than the validation rows the adapter was trained with")
    parser.add_argument("--rows", type=int, default=256, help="compare the logits of this many rows (default: 256)")
    parser.add_argument("--no_rows", action="store_true", help="look at the weights alone, compare no logits")
    parser.add_argument(
        "--dequantize", action="store_true", help="a base in four bits becomes plain weights of the same numbers"
    )
    parser.add_argument("--device", default="auto", help="where the logits are computed: cpu, cuda or auto (default)")
    options = parser.parse_args()
    check_given(parser, options)
    if options.rows < 1:
        parser.error(f"--rows: found {options.rows}; expected at least 1")
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        parser.error(f"--tolerance: found {options.tolerance}; expected a finite number from 0")
    if options.format != FORMATS[0] and not options.merged:
        parser.error("--format is about --merged DIR")
    if options.public and not options.push:
        parser.error("--public is about --push OWNER/NAME")
    if options.no_rows and options.dataset:
        parser.error("--dataset names rows, and --no_rows wants none")
    return options


def table(gate: MergeCheck) -> str:
    """One line a layer, then what the rows say."""
    width = max(len("module"), *(len(row.name) for row in gate.layers))
    header = f"{'module':<{width}} {'|dW|/|W|':>9} {'survived':>9} {'error':>9} {'unchanged':>9}"
    lines = [
        f"{row.name:<{width}} {row.relative_norm:>9.2e} {row.survived:>9.4f} {row.error:>9.2e} {row.unchanged:>9.4f}"
        for row in gate.layers
    ]
    found = gate.logits
    words = (
        f"{gate.dtype}: logits not compared (--no_rows)"
        if found is None
        else f"{gate.dtype}, {found.rows:,} rows of {found.source}: largest logit error {found.error:.1e} of their rms "
        f"(tolerance {gate.tolerance:.1e}), {found.flips:,} labels flip"
    )
    return "\n".join([header, "-" * len(header), *lines, "", words])


if __name__ == "__main__":
    run_command(main)
