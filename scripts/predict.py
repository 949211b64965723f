"""Classify texts with an adapter. One JSON object per line: the text, its label, and the probability of every label.

python scripts/predict.py --adapter checkpoints/demo/adapter "i am so happy today"
python scripts/predict.py --adapter checkpoints/demo/adapter --file texts.txt --output labels.jsonl
cat texts.txt | python scripts/predict.py --adapter checkpoints/demo/adapter - > labels.jsonl

Lines come out in the order they went in. A file of any size is classified in flat memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from lora_scratch.errors import ConfigError, DataError
from lora_scratch.jobs import Classifier, open_adapter, run_command
from lora_scratch.runtime.atomic import new_file
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision


def main() -> None:
    """Texts in, one JSON object a line out."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    texts = read_texts(options)
    classify = Classifier(open_adapter(options.adapter, model=options.model), precision=precision, plain=options.plain)
    with open_output(options.output) as output:
        for found in classify(texts):
            output.write(json.dumps(found.as_json()) + "\n")


def parse() -> argparse.Namespace:
    """The command line; `-` among the texts means standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", help="texts to classify, or - for one text a line on standard input")
    parser.add_argument("--adapter", required=True, help="adapter folder, as scripts/train.py writes it")
    parser.add_argument("--file", help="UTF-8 file with one text a line")
    parser.add_argument("--output", help="file for the results, whole or absent, in place of standard output")
    parser.add_argument("--model", help="base model, if not the one the adapter names")
    parser.add_argument("--precision", default="auto", help="compute dtype: fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument(
        "--plain", action="store_true", help="with padding, by the model's own code: slower, equal to rounding"
    )
    options = parser.parse_args()
    if options.texts == ["-"]:
        options.texts, options.file = [], "-"
    if bool(options.texts) == bool(options.file):
        parser.error("pass texts, or --file FILE, or - for standard input: one of the three")
    return options


def open_output(path: str | None) -> AbstractContextManager[TextIO]:
    """Where the results go: standard output, or a file that appears when it is whole."""
    return nullcontext(sys.stdout) if path is None else new_file(Path(path))


def read_texts(options: argparse.Namespace) -> Iterable[str]:
    """The texts from the command line, or the lines of the file, one at a time."""
    if options.texts:
        return [checked(text, f"text {number}") for number, text in enumerate(options.texts, 1)]
    if options.file != "-" and not Path(options.file).is_file():
        raise DataError("no such file", where=options.file, expected="a UTF-8 file with one text a line")
    return lines(options.file)


def lines(path: str) -> Iterator[str]:
    """The lines of a file (or `-`, standard input) without their ends, under a bar of the bytes that have been read."""
    stdin = path == "-"
    name, size = ("standard input", None) if stdin else (path, Path(path).stat().st_size)
    bar = tqdm(total=size, desc="classify", unit="B", unit_scale=True)
    with open(sys.stdin.fileno() if stdin else path, "rb", closefd=not stdin) as file, bar:
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            try:
                yield checked(line.decode().rstrip("\r\n"), f"{name}:{number}")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"not UTF-8 ({error.reason})", where=f"{name}:{number}", remedy="convert the file to UTF-8"
                ) from error


def checked(text: str, where: str) -> str:
    """The text itself, if there is anything in it."""
    if not text.strip():
        raise ConfigError("an empty text can't be classified", where=where)
    return text


if __name__ == "__main__":
    run_command(main)
