"""Classify texts with an adapter. One JSON object per line: the text, its label, and the probability of every label.

python scripts/predict.py --adapter checkpoints/demo/adapter "i am so happy today"
python scripts/predict.py --adapter checkpoints/demo/adapter --file texts.txt --output labels.jsonl
cat texts.txt | python scripts/predict.py --adapter checkpoints/demo/adapter - > labels.jsonl
torchrun --nproc_per_node 2 scripts/predict.py --adapter checkpoints/demo/adapter --file texts.txt --output labels.jsonl

Lines come out in the order they went in. A file of any size is classified in flat memory. The first text that can't be
classified (empty, NUL, no UTF-8) ends the command; with --skip_bad_rows its error stands in its place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from lora_scratch.data import checked_text, read_texts
from lora_scratch.deploy.classify import Classified, Classifier
from lora_scratch.errors import DataError
from lora_scratch.runs import argument_parser, check_file, check_given, open_adapter, run_command
from lora_scratch.runtime.atomic import new_file
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.distributed import is_main
from lora_scratch.runtime.precision import resolve_precision


def main() -> None:
    """Texts in, one JSON object a line out."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    if is_main():
        check_file(options.output, flag="--output", new=True)
    texts = given_texts(options) if is_main() else ()
    saved = open_adapter(options.adapter, model=options.model)
    classify = Classifier(saved, precision=precision, plain=options.plain, fsdp=options.fsdp)
    with open_output(options.output if is_main() else None) as output:
        bad = 0
        for found in classify(texts):
            output.write(json.dumps(answer(found)) + "\n")
            bad += isinstance(found, DataError)
    if bad:
        print(f"{bad:,} texts could not be classified; `error` says why in the place of each", file=sys.stderr)


def parse() -> argparse.Namespace:
    """The command line; `-` among the texts means standard input."""
    parser = argument_parser(__doc__)
    parser.add_argument("texts", nargs="*", help="texts to classify, or - for one text a line on standard input")
    parser.add_argument("--adapter", required=True, help="adapter folder, as scripts/train.py writes it")
    parser.add_argument("--file", help="UTF-8 file with one text a line")
    parser.add_argument("--output", help="new file for the results, whole or absent, in place of standard output")
    parser.add_argument(
        "--skip_bad_rows", action="store_true", help="answer a text that can't be classified with its error; go on"
    )
    parser.add_argument("--model", help="base model, if not the one the adapter names")
    parser.add_argument("--precision", default="auto", help="compute dtype: fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument(
        "--plain", action="store_true", help="with padding, by the model's own code: slower, equal to rounding"
    )
    parser.add_argument(
        "--fsdp", action="store_true", help="share the base out over the processes, for one that does not fit one device"
    )
    options = parser.parse_args()
    if options.texts == ["-"]:
        options.texts, options.file = [], "-"
    if bool(options.texts) == bool(options.file):
        parser.error("pass texts, or --file FILE, or - for standard input: one of the three")
    check_given(parser, options)
    return options


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


def answer(found: Classified | DataError) -> dict[str, Any]:
    """What is written of a text; of one that can't be classified, why."""
    if isinstance(found, Classified):
        return found.as_json()
    return {"text": None, "label": None, "error": f"{found.where}: {found.found}"}


if __name__ == "__main__":
    run_command(main, in_processes=True)
