"""Classify texts with an adapter, or with many in one model. One JSON object a line: text, label, all probabilities.

    lora-scratch predict checkpoints/demo/adapter "i am so happy today"
    lora-scratch predict checkpoints/demo/adapter --file texts.txt --output labels.jsonl
    cat texts.txt | lora-scratch predict checkpoints/demo/adapter - > labels.jsonl
    torchrun --nproc_per_node 2 -m lora_scratch predict checkpoints/demo/adapter --file texts.txt --output labels.jsonl
    lora-scratch predict --adapters mood=checkpoints/mood/adapter topic=checkpoints/topic/adapter --file rows.jsonl
    cat rows.jsonl | lora-scratch predict --adapters mood=checkpoints/mood/adapter --file - --chunk 1

Results come in the order of the texts. A file of any size is classified in flat memory. The first text that can't be
classified (empty, NUL, no UTF-8) ends the command; with --skip_bad_rows its error is written in its place.

With --adapters a row is {"text": "i am so happy today", "adapter": "mood"}; the adapter `base` is the base model with its
own head. The result is that of `predict` with this adapter alone, and the adapter's name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from lora_scratch.data import checked_text, read_texts
from lora_scratch.data.rows import checked_row, listed
from lora_scratch.deploy.bank import BASE
from lora_scratch.deploy.classify import Classified, Classifier
from lora_scratch.deploy.serve import classify_rows, open_bank
from lora_scratch.errors import DataError
from lora_scratch.runs import (
    CommandParser,
    add_adapter,
    add_shared,
    argument_parser,
    check_file,
    check_given,
    open_adapter,
    run_command,
)
from lora_scratch.runtime.atomic import new_file
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.distributed import check_one_process, is_main
from lora_scratch.runtime.paths import typed_path
from lora_scratch.runtime.precision import Precision, resolve_precision

IN_PROCESSES = True
CHUNK = 2048  # rows of --adapters that are held at a time
ONE_ADAPTER = ("labels", "skip_bad_rows", "plain", "fsdp")  # flags that --adapters does not take


def main() -> None:
    """Texts in, one JSON object a line out."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    if is_main():
        check_file(options.output, flag="--output", new=True)
    if options.adapters:
        check_one_process("predict --adapters")
        classify_named(options, precision)
    else:
        classify_texts(options, precision)


def classify_texts(options: argparse.Namespace, precision: Precision) -> None:
    """Classify with one adapter."""
    texts = given_texts(options) if is_main() else ()
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    classify = Classifier(saved, precision=precision, plain=options.plain, fsdp=options.fsdp)
    with open_output(options.output if is_main() else None) as output:
        bad = 0
        for result in classify(texts):
            output.write(json.dumps(answer(result)) + "\n")
            bad += isinstance(result, DataError)
    if bad:
        print(f"{bad:,} texts could not be classified; `error` says why in the place of each", file=sys.stderr)


def classify_named(options: argparse.Namespace, precision: Precision) -> None:
    """Classify rows that name their adapter."""
    served = open_bank(dict(options.adapters), model=options.model, device=precision.device)
    rows = read_rows(options.file, [*served.bank.adapters, BASE])
    rows = iter(tqdm(rows, desc="classify", unit="row", disable=options.file == "-"))
    with open_output(options.output) as output:
        while chunk := list(islice(rows, options.chunk or CHUNK)):
            texts, adapters = zip(*chunk, strict=True)
            results = classify_rows(served, texts, adapters, precision=precision)
            for adapter, result in zip(adapters, results, strict=True):
                output.write(json.dumps({"adapter": adapter, **result.as_json()}) + "\n")
            output.flush()


def parse() -> argparse.Namespace:
    """The command line; `-` in place of the texts means standard input."""
    parser = build_parser()
    options = parser.parse_intermixed_args()  # flags before, between and after the texts
    if options.texts == ["-"]:
        options.texts, options.file = [], "-"
    if options.adapters:
        check_named(parser, options)
    elif options.adapter is None:
        parser.error("pass the folder of an adapter, or --adapters NAME=FOLDER")
    elif options.chunk is not None:
        parser.error("--chunk goes with --adapters")
    elif bool(options.texts) == bool(options.file):
        parser.error("pass texts, or --file FILE, or - for standard input: one of the three")
    check_given(parser, options)
    return options


def build_parser() -> CommandParser:
    """The arguments, and the flags by subject."""
    parser = argument_parser(__doc__)
    add_adapter(parser, nargs="?")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts, or - for one text a line on standard input")
    parser.add_argument("--file", help="UTF-8 file with one text a line; with --adapters one JSON object a line")
    parser.add_argument("--output", help="new file for the results, whole or absent, in place of standard output")
    meaning = "write the error of a text that can't be classified in its place, and continue"
    parser.add_argument("--skip_bad_rows", action="store_true", help=meaning)
    many = parser.group("many adapters")
    many.add_argument("--adapters", nargs="+", type=named_folder, metavar="NAME=FOLDER", help="in place of ADAPTER")
    meaning = f"rows held at a time (default: {CHUNK}); with 1 every row is answered at once"
    many.add_argument("--chunk", type=int, help=meaning)
    precision = {"default": "auto", "help": "fp32, bf16, fp16 or auto (default)"}
    add_shared(parser, "precision", "device", "plain", "fsdp", precision=precision)
    return parser


def check_named(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 where --adapters can't be honoured."""
    if options.adapter is not None or options.texts or not options.file:
        parser.error("--adapters goes with --file FILE, or --file - for standard input, alone")
    if flags := [f"--{name}" for name in ONE_ADAPTER if getattr(options, name)]:
        parser.error(f"{flags[0]} does not go with --adapters")
    for _, folder in options.adapters:
        typed_path(folder, flag="--adapters")
    names = [name for name, _ in options.adapters]
    if len(set(names)) < len(names) or BASE in names:
        parser.error(f"--adapters: every name once, and not {BASE!r}, which is the base model")
    if options.chunk is not None and not 1 <= options.chunk <= sys.maxsize:
        parser.error(f"--chunk: found {options.chunk}, expected 1 to {sys.maxsize}")


def open_output(path: str | None) -> AbstractContextManager[TextIO]:
    """Where the results go: standard output, or a file that appears when it is whole."""
    return nullcontext(sys.stdout) if path is None else new_file(Path(path))


def given_texts(options: argparse.Namespace) -> Iterable[str | DataError]:
    """The texts of the command line or of the file, in order."""
    numbered = enumerate(options.texts, 1)
    given = [checked_text(f"text {number}", text) for number, text in numbered]
    texts = given or read_texts(options.file, progress="classify")
    return texts if options.skip_bad_rows else refuse_bad(texts)


def refuse_bad(texts: Iterable[str | DataError]) -> Iterator[str]:
    """The texts up to the first bad one, which is raised."""
    for text in texts:
        if isinstance(text, DataError):
            raise text
        yield text


def answer(result: Classified | DataError) -> dict[str, Any]:
    """What is written of a text; if it can't be classified, why."""
    if isinstance(result, Classified):
        return result.as_json()
    return {"text": None, "label": None, "error": f"{result.where}: {result.found}"}


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
    run_command(main, in_processes=IN_PROCESSES)
