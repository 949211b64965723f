"""Merge an adapter into its base, split it for servers of many adapters, or push it to the hub.

    lora-scratch export merge checkpoints/demo/adapter --output exported
    lora-scratch export merge checkpoints/demo/adapter --output exported --dtype bfloat16   half the size
    lora-scratch export merge checkpoints/demo/adapter --output exported --format onnx
    lora-scratch export merge checkpoints/demo/adapter --output exported --dtype float16 --tolerance 0.005
    lora-scratch export split checkpoints/demo/adapter --output served
    lora-scratch export push checkpoints/demo/adapter owner/name --license apache-2.0 --language en

merge: a plain transformers model, as fast as the base, that needs neither PEFT nor this project. Before anything is
written, its logits on validation rows are compared with those of the adapter model: one beyond the tolerance is exit code
1. Before the folder gets its name, a new process that can import neither of the two reads it and has to give the same
tokens and logits, which takes some seconds. The figures go to merge.json in the folder.
split: served/base with the trained head, and served/adapter with A and B alone, for servers that take no head.
push: the adapter and its card, to a repository that is private at first. License, language, examples and the hub's name
of the base go into the card that is uploaded; the folder stays as it is.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from lora_scratch.adapter import dequantize_base
from lora_scratch.deploy.formats import FORMATS, check_format, input_names, write_plain
from lora_scratch.deploy.merge_check import DTYPES, TOLERANCES, MergeCheck, merge_check_rows, merge_if_equal
from lora_scratch.deploy.reload import check_reloaded, probe_rows
from lora_scratch.deploy.split import save_split
from lora_scratch.evaluation import Table, aligned_table
from lora_scratch.runs import (
    CommandParser,
    TrainedAdapter,
    add_adapter,
    add_shared,
    argument_parser,
    check_free,
    check_given,
    local_adapter,
    open_adapter,
    push_adapter,
    run_command,
)
from lora_scratch.runs.card_metadata import hub_model, is_hub_name
from lora_scratch.runtime.atomic import new_folder, write_json
from lora_scratch.runtime.device import resolve_device

RECORD = "merge.json"
READERS = {
    "transformers": "AutoModelForSequenceClassification.from_pretrained loads it",
    "program": "torch.export.load('model.pt2').module()({names}) gives its logits",
    "onnx": "onnxruntime.InferenceSession('model.onnx').run(None, {{...}}), by name {names}, gives its logits",
}


def main() -> None:
    """Do the job that is named."""
    options = parse()
    {"merge": merge, "split": split, "push": push}[options.job](options)


def merge(options: argparse.Namespace) -> None:
    """Load, merge, compare, write.

    Raises:
        MergeError: a logit beyond the tolerance; nothing is written.
    """
    place, device = check_free(Path(options.output), flag="--output"), resolve_device(options.device)
    check_format(options.format, dtype=options.dtype)
    saved = open_plain(options)
    rows, source = (None, "") if options.no_rows else merge_check_rows(saved, dataset=options.dataset, count=options.rows)
    tolerance = TOLERANCES[options.dtype] if options.tolerance is None else options.tolerance
    encoded = None if rows is None else rows.encoded
    check = merge_if_equal(saved, rows=encoded, source=source, dtype=options.dtype, tolerance=tolerance, device=device)
    print(table(check))
    check.check()
    pairs, decision = saved.provenance.data.pair_column is not None, saved.task.settings()
    rows = rows or probe_rows(saved.base, pairs=pairs)
    again = {"form": options.format, "tolerance": TOLERANCES[options.dtype], "device": device}
    with new_folder(place) as folder:
        write_plain(saved.base, folder, form=options.format, pairs=pairs)
        error = check_reloaded(saved.base, folder, rows=rows, **again)
        record = {**check.as_json(), "task": saved.task.name, "decision": decision, "reloaded_error": error}
        write_json(folder / RECORD, record)
    print(f"read again by a new process: largest logit error {error:.1e} of their rms")
    names = ", ".join(input_names(saved.base, pairs=pairs))
    print(f"\n{place}: {READERS[options.format].format(names=names)}")
    if thresholds := decision.get("thresholds"):
        print(
            f"a label applies above its threshold, of {len(thresholds)} in {RECORD}; a pipeline of transformers knows none"
        )


def split(options: argparse.Namespace) -> None:
    """Load, split, write."""
    place = check_free(Path(options.output), flag="--output")
    needs = save_split(open_plain(options), place)
    print("\n".join(f"{name:<24} {value}" for name, value in needs.items()))
    print(f"\n{place / 'base'}: an ordinary model; {place / 'adapter'}: LoRA for it, in PEFT's format")


def push(options: argparse.Namespace) -> None:
    """Load, and push what loads."""
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    base = options.base_model or hub_model(saved.base.name)
    widget = [{"text": text} for text in options.widget] if options.widget else None
    given = {"license": options.license, "language": options.language, "widget": widget}
    metadata = {"base_model": base, **{key: value for key, value in given.items() if value is not None}}
    print(base_line(base, saved.base.name))
    print(push_adapter(local_adapter(options.adapter), options.repository, public=options.public, metadata=metadata))


def base_line(base: str | None, name: str) -> str:
    """Return a line that says what others will take as the base."""
    if base is None:
        return f"base_model is left out: {name} is on no hub; name it with --base_model OWNER/NAME"
    return f"base_model: {base}" + ("" if base == name else f" (here it is {name})")


def open_plain(options: argparse.Namespace) -> TrainedAdapter:
    """The adapter model, its base dequantized if that is asked for."""
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    if options.dequantize:
        dequantize_base(saved.base.model)
    return saved


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__)
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    jobs.add_parser("merge", help="write a plain model")
    jobs.add_parser("split", help="write a base with the trained head, and LoRA alone")
    jobs.add_parser("push", help="upload the adapter to the hub")
    for name, job in jobs.choices.items():
        add_adapter(job)
        if name != "push":
            add_writing(job)
    add_merge(jobs.choices["merge"])
    add_push(jobs.choices["push"])
    options = parser.parse_args()
    check_given(jobs.choices[options.job], options)
    if options.job == "merge":
        check_merge(jobs.choices["merge"], options)
    return options


def add_writing(parser: CommandParser) -> None:
    """The flags of merge and split."""
    parser.add_argument("--output", required=True, metavar="DIR", help="where it goes; must not hold files yet")
    meaning = "a base in four bits becomes plain weights of the same numbers"
    parser.group("adapter").add_argument("--dequantize", action="store_true", help=meaning)


def add_merge(parser: CommandParser) -> None:
    """The flags of merge alone."""
    group = parser.group("what is written")
    meaning = "a folder for transformers (default), model.pt2 of torch.export, or model.onnx"
    group.add_argument("--format", default=FORMATS[0], choices=FORMATS, help=meaning)
    group.add_argument("--dtype", default="float32", choices=[*DTYPES], help="dtype of the weights (default: float32)")
    group = parser.group("comparison")
    defaults = ", ".join(f"{value:g} in {name}" for name, value in TOLERANCES.items())
    meaning = f"largest error of a logit / rms of all logits that is accepted (default: {defaults})"
    group.add_argument("--tolerance", type=float, help=meaning)
    group.add_argument("--dataset", help="other rows than the validation rows the adapter was trained with")
    group.add_argument("--rows", type=int, default=256, help="compare the logits of this many rows (default: 256)")
    group.add_argument("--no_rows", action="store_true", help="compare no logits, only the weights")
    add_shared(parser, "device")


def add_push(parser: CommandParser) -> None:
    """The flags of push alone."""
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository of the hub; it is made if there is none")
    parser.add_argument("--public", action="store_true", help="a repository that is made here is public, not private")
    group = parser.group("card")
    group.add_argument("--license", type=license_id, metavar="ID", help="as the hub has it: apache-2.0, mit, cc-by-4.0, ...")
    meaning = "languages of the texts, as ISO codes: en, de, ..."
    group.add_argument("--language", type=language_code, nargs="+", metavar="CODE", help=meaning)
    meaning = "texts that the repository's page offers to try; they are public (default: a neutral one)"
    group.add_argument("--widget", nargs="+", metavar="TEXT", help=meaning)
    meaning = "the base's name on the hub (default: the one it was loaded by, or config.json of its folder names)"
    group.add_argument("--base_model", type=hub_name, metavar="NAME", help=meaning)


def license_id(text: str) -> str:
    """Return an identifier of a license. The hub itself checks that it knows it."""
    return _matching(r"[a-z0-9][a-z0-9.+-]*", text, expected="an identifier such as apache-2.0")


def language_code(text: str) -> str:
    """Return an ISO code of a language."""
    return _matching(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code", text, expected="an ISO code such as en")


def hub_name(text: str) -> str:
    """Return a name that a model of the hub can have."""
    if not is_hub_name(text):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a name on the hub such as owner/name")
    return text


def _matching(pattern: str, text: str, *, expected: str) -> str:
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected {expected}")
    return text


def check_merge(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 where the flags of merge can't be honoured."""
    if options.rows < 1:
        parser.error(f"--rows: found {options.rows}; expected at least 1")
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        parser.error(f"--tolerance: found {options.tolerance}; expected a finite number from 0")
    if options.no_rows and options.dataset:
        parser.error("--dataset names rows, and --no_rows takes none")


def table(check: MergeCheck) -> str:
    """One line a layer, then what the rows say."""
    rows = [
        [
            row.name,
            f"{row.relative_norm:.2e}",
            f"{row.survived:.4f}",
            f"{row.error:.2e}",
            f"{row.unchanged:.4f}",
        ]
        for row in check.layers
    ]
    header = ["module", "|dW|/|W|", "survived", "error", "unchanged"]
    logits = check.logits
    words = f"{check.dtype}: logits not compared (--no_rows)"
    if logits is not None:
        words = (
            f"{check.dtype}, {logits.rows:,} rows of {logits.source}: largest logit error {logits.error:.1e} of their rms "
            f"(tolerance {check.tolerance:.1e})"
        )
        words += "" if logits.flips is None else f", {logits.flips:,} rows get other labels"
    return f"{aligned_table(Table(header, rows))}\n\n{words}"


if __name__ == "__main__":
    run_command(main)
