"""Classify rows that each name their adapter, all in one model. One JSON object a row in, one a row out, in order.

python scripts/predict_bank.py --adapters mood=checkpoints/mood/adapter topic=checkpoints/topic/adapter --file rows.jsonl
cat rows.jsonl | python scripts/predict_bank.py --adapters mood=checkpoints/mood/adapter --file - --chunk 1

A row is {"text": "i am so happy today", "adapter": "mood"}; the adapter `base` is the base model with its own head. What
comes out is what scripts/predict.py says with that adapter alone, and the adapter's name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice

from tqdm import tqdm

from lora_scratch.data.rows import checked_row, listed
from lora_scratch.deploy.bank import BASE
from lora_scratch.deploy.serve import classify_rows, open_bank
from lora_scratch.errors import DataError
from lora_scratch.runs import argument_parser, check_given, run_command
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.paths import typed_path
from lora_scratch.runtime.precision import resolve_precision


def main() -> None:
    """Rows in, one JSON object a line out."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    served = open_bank(dict(options.adapters), model=options.model, device=precision.device)
    rows = read_rows(options.file, [*served.bank.adapters, BASE])
    rows = iter(tqdm(rows, desc="classify", unit="row", disable=options.file == "-"))
    while chunk := list(islice(rows, options.chunk)):
        texts, adapters = zip(*chunk, strict=True)
        for adapter, found in zip(adapters, classify_rows(served, texts, adapters, precision=precision), strict=True):
            print(json.dumps({"adapter": adapter, **found.as_json()}))
        sys.stdout.flush()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--adapters", required=True, nargs="+", type=named_folder, help="NAME=FOLDER, one or more")
    parser.add_argument("--file", required=True, help="UTF-8 file with one JSON object a line, or - for standard input")
    parser.add_argument("--model", help="base model, if not the one that the adapters name")
    parser.add_argument("--chunk", type=int, default=2048, help="rows held at a time (default 2048); 1 answers each at once")
    parser.add_argument("--precision", default="auto", help="compute dtype: fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    options = parser.parse_args()
    check_given(parser, options)
    for _, folder in options.adapters:
        typed_path(folder, flag="--adapters")
    names = [name for name, _ in options.adapters]
    if len(set(names)) < len(names) or BASE in names:
        parser.error(f"--adapters: each name once, and not {BASE!r}, which is the base model")
    if not 1 <= options.chunk <= sys.maxsize:
        parser.error(f"--chunk: found {options.chunk}, expected 1 to {sys.maxsize}")
    return options


def named_folder(argument: str) -> tuple[str, str]:
    """(name, folder) of `name=folder`."""
    name, equals, folder = argument.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"found {argument!r}, expected NAME=FOLDER")
    return name, folder


def read_rows(path: str, adapters: list[str]) -> Iterator[tuple[str, str]]:
    """(text, adapter) of every line of a file, or of standard input; blank lines are no rows."""
    name = "standard input" if path == "-" else path
    if path != "-" and not os.path.isfile(path):
        raise DataError("no such file", where=path, expected="a UTF-8 file with one JSON object a line")
    # surrogateescape: a stray byte is the fault of its row, which says so
    with open(
        sys.stdin.fileno() if path == "-" else path, encoding="utf-8-sig", errors="surrogateescape", closefd=path != "-"
    ) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield checked(line, f"{name}:{number}", adapters)


def checked(line: str, where: str, adapters: list[str]) -> tuple[str, str]:
    """The row in this line, if both text and adapter can be used."""
    expected = '{"text": ..., "adapter": ...} on one line'
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"malformed JSON ({error})", where=where, expected=expected) from error
    if not isinstance(fields, dict) or not {"text", "adapter"} <= fields.keys():
        found = listed(list(fields)) if isinstance(fields, dict) else f"JSON of type {type(fields).__name__}"
        raise DataError(f"found {found}", where=where, expected=expected)
    if fields["adapter"] not in adapters:
        raise DataError(f"no adapter {fields['adapter']!r}", where=where, expected=f"one of {', '.join(adapters)}")
    row = checked_row(where, fields["text"], fields["adapter"])
    if isinstance(row, DataError):
        raise DataError(row.found, where=where, expected=row.expected)
    return row.text, fields["adapter"]


if __name__ == "__main__":
    run_command(main)
