"""Classify texts with an adapter. One JSON object per line: the text, its label, and the probability of every label.

python scripts/predict.py --adapter checkpoints/demo/adapter "i am so happy today"
python scripts/predict.py --adapter checkpoints/demo/adapter --file texts.txt > labels.jsonl
cat texts.txt | python scripts/predict.py --adapter checkpoints/demo/adapter -
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from lora_scratch.adapter import merge_all
from lora_scratch.data import Example
from lora_scratch.errors import ConfigError, DataError
from lora_scratch.evaluation import predict_logits
from lora_scratch.jobs import encode_rows, open_adapter, run_command
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision

CHUNK = 2048  # lines held at a time: enough to sort by length, little enough that memory stays flat


def main() -> None:
    """Texts in, one JSON object a line out."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    texts = read_texts(options)
    saved = open_adapter(options.adapter, model=options.model)
    model = saved.base.model.to(precision.device)
    merge_all(model)
    max_tokens = saved.notes["data"]["max_tokens"]
    for chunk in chunks(tqdm(texts, desc="classify", unit="text", disable=options.texts != [])):
        encoded = encode_rows([Example(text, 0) for text in chunk], saved.base, max_tokens=max_tokens)
        logits = predict_logits(model, encoded, precision=precision, pad_token_id=saved.base.pad_token_id)
        for text, scores in zip(chunk, logits.softmax(-1).tolist(), strict=True):
            best = max(range(len(scores)), key=scores.__getitem__)
            named = {label: round(score, 6) for label, score in zip(saved.labels, scores, strict=True)}
            print(json.dumps({"text": text, "label": saved.labels[best], "score": round(scores[best], 6), "scores": named}))


def parse() -> argparse.Namespace:
    """The command line; `-` among the texts means standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", help="texts to classify, or - for one text a line on standard input")
    parser.add_argument("--adapter", required=True, help="adapter folder, as scripts/train.py writes it")
    parser.add_argument("--file", help="UTF-8 file with one text a line")
    parser.add_argument("--model", help="base model, if not the one the adapter names")
    parser.add_argument("--precision", default="auto", help="compute dtype: fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    options = parser.parse_args()
    if options.texts == ["-"]:
        options.texts, options.file = [], "-"
    if bool(options.texts) == bool(options.file):
        parser.error("pass texts, or --file FILE, or - for standard input: one of the three")
    return options


def read_texts(options: argparse.Namespace) -> Iterable[str]:
    """The texts from the command line, or the lines of the file, one at a time."""
    if options.texts:
        return [checked(text, f"text {number}") for number, text in enumerate(options.texts, 1)]
    if options.file != "-" and not Path(options.file).is_file():
        raise DataError("no such file", where=options.file, expected="a UTF-8 file with one text a line")
    return lines(options.file)


def lines(path: str) -> Iterator[str]:
    """The lines of a file (or `-`, standard input) without their ends."""
    name = "standard input" if path == "-" else path
    with open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-") as file:
        for number, line in enumerate(file, 1):
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


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of up to CHUNK texts."""
    iterator = iter(texts)
    return iter(lambda: list(islice(iterator, CHUNK)), [])


if __name__ == "__main__":
    run_command(main)
