"""Classify texts, pairs of texts or tables with an adapter, or rows with many adapters in one model.

    lora-scratch predict checkpoints/demo/adapter "i am so happy today"
    lora-scratch predict checkpoints/mrpc/adapter "it rains" --pair "the rain falls"
    lora-scratch predict checkpoints/demo/adapter --file texts.txt --output labels.jsonl
    cat texts.txt | lora-scratch predict checkpoints/demo/adapter - > labels.jsonl
    lora-scratch predict checkpoints/mine/adapter --file in.csv --text_column body --output out.csv
    lora-scratch predict checkpoints/mine/adapter --file in.parquet --output out.parquet --top 3 --abstain_below 0.6
    torchrun --nproc_per_node 2 -m lora_scratch predict checkpoints/demo/adapter --file texts.txt --output labels.jsonl
    lora-scratch predict --adapters mood=checkpoints/mood/adapter topic=checkpoints/topic/adapter --file rows.jsonl
    cat rows.jsonl | lora-scratch predict --adapters mood=checkpoints/mood/adapter --file - --chunk 1

Results come in the order of the texts: JSON lines, or what the extension of --output says (.csv, .tsv, .jsonl,
.parquet). A table (.csv, .tsv, .jsonl, .json, .parquet) keeps all its columns; label and score follow, or labels (in a
text table as a JSON list; columns of 0 and 1 where the training had them), or the score alone, as the adapter was trained.
JSON lines also have the scores of all labels.
Cells are data and stay as they are: a spreadsheet takes a .csv cell that begins with = + - @ for a formula, so import the
columns as text there.
A file of any size is classified in flat memory, but for a .json file with one list. The first row that can't be
classified (empty text, NUL, no UTF-8, outputs that are not finite) ends the command, and no file is written; with
--skip_bad_rows its error is written in its place.

With --adapters a row is {"text": "i am so happy today", "adapter": "mood"}, with "pair" for a second text; the adapter
`base` is the base model with its own head. The result is that of `predict` with this adapter alone, and the adapter's name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from lora_scratch.data import checked_text, read_texts
from lora_scratch.data.readers import file_kind
from lora_scratch.data.record_files import check_table, is_table, open_records
from lora_scratch.data.records import InputTable, Text, TextColumns, TextTable
from lora_scratch.deploy.answers import AnswerFormat, check_limits
from lora_scratch.deploy.bank import BASE
from lora_scratch.deploy.classify import Classifier, classify_chunks
from lora_scratch.deploy.named_rows import EXPECTED, read_named_rows
from lora_scratch.deploy.output_tables import JSON_LINES, open_output, open_stream, output_form
from lora_scratch.deploy.serve import classify_rows, open_bank
from lora_scratch.errors import ConfigError, DataError, printable
from lora_scratch.runs import (
    CommandParser,
    TrainedAdapter,
    add_adapter,
    add_shared,
    argument_parser,
    check_file,
    check_given,
    open_adapter,
    run_command,
)
from lora_scratch.runs.sides import check_sides
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.distributed import check_one_process, is_main
from lora_scratch.runtime.paths import typed_path
from lora_scratch.runtime.precision import resolve_precision

IN_PROCESSES, NEEDS_READER, ONLY_CLASSIFIES = True, True, True
CHUNK = 2048  # rows of --adapters that are held at a time
LINES = (".jsonl", ".json", ".txt")  # files of --adapters
OF_TABLES = ("text_column", "pair_column")
ONE_ADAPTER = (
    *("pair", "text_column", "pair_column", "top", "calibrated", "abstain_below", "prefix"),
    *("skip_bad_rows", "plain", "fsdp", "labels"),
)  # flags that --adapters does not take


def main() -> None:
    """Texts or a table in, the same with answers out."""
    options = parse()
    form = output_form(options.output)
    if is_main():
        check_file(options.output, flag="--output", new=True)
    if options.adapters:
        check_one_process("predict --adapters")
        check_lines(options, form)
        classify_named(options)
    else:
        classify_one(options)


def check_lines(options: argparse.Namespace, form: str) -> None:
    """Check that the rows of --adapters come as JSON lines and go as JSON lines.

    Raises:
        ConfigError: a table.
    """
    remedy = "classify a table with one adapter after the other: predict FOLDER --file TABLE --output TABLE"
    if file_kind(Path(options.file)) not in ("", *LINES):
        expected = f"one JSON object a line, {EXPECTED.removesuffix(' on one line')}"
        raise ConfigError("a table", where=f"--adapters with --file {options.file}", expected=expected, remedy=remedy)
    if form != JSON_LINES:
        where = f"--output {options.output}"
        raise ConfigError("--adapters writes JSON lines", where=where, expected=JSON_LINES, remedy=remedy)


def classify_one(options: argparse.Namespace) -> None:
    """Classify with one adapter."""
    texts = given_texts(options) if is_main() else ()
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    read = text_columns(options, saved)
    check_sides(saved.provenance.data, pairs=read.pair is not None, where=options.file or "")
    texts = with_note(texts, saved.labels)
    precision = resolve_precision(options.precision or saved.precision, resolve_device(options.device))
    how = {"calibrated": options.calibrated, "plain": options.plain, "fsdp": options.fsdp}
    classify = Classifier(saved, precision=precision, **how)
    answers = AnswerFormat(
        classify.task,
        options.top,
        options.abstain_below,
        errors=options.skip_bad_rows,
        prefix=options.prefix or "",
        multi_hot=isinstance(saved.provenance.data.label_column, tuple),
    )
    if is_main():
        write_answers(options, classify, open_table(options, read, texts), answers)
    else:
        for _ in classify(()):  # a share of the main process's texts
            pass


def with_note(texts: Iterable[Text], labels: Sequence[str]) -> Iterator[Text]:
    """Pass the texts on. Say so if the first ends in `;label`, as the rows of a training file do."""
    for number, text in enumerate(texts):
        label = text.rpartition(";")[2] if isinstance(text, str) and ";" in text and number == 0 else ""
        if label in labels:
            print(printable(f"the first text ends in ;{label}, which is read as text and not as its label"), file=sys.stderr)
        yield text


def write_answers(options: argparse.Namespace, classify: Classifier, table: InputTable, answers: AnswerFormat) -> None:
    """Write every record with its answer."""
    for note in table.notes:
        print(note, file=sys.stderr)
    bad = 0
    bar = {"total": table.n, "desc": "classify", "unit": "row", "disable": not is_table(options.file or "")}
    with open_output(options.output, table, answers) as output, tqdm(**bar) as progress:
        for chunk, results in classify_chunks(classify, table, skip_bad_rows=options.skip_bad_rows):
            output.write(chunk, results)
            bad += sum(isinstance(result, DataError) for result in results)
            progress.update(len(results))
    if bad:
        print(f"{bad:,} texts could not be classified; `error` says why in the place of each", file=sys.stderr)


def classify_named(options: argparse.Namespace) -> None:
    """Classify rows that name their adapter."""
    device = resolve_device(options.device)
    served = open_bank(dict(options.adapters), model=options.model, device=device)
    precision = resolve_precision(options.precision or served.precision, device)
    rows = read_named_rows(options.file, [*served.bank.adapters, BASE])
    rows = iter(tqdm(rows, desc="classify", unit="row", disable=options.file == "-"))
    with open_stream(options.output) as output:
        while chunk := list(islice(rows, options.chunk or CHUNK)):
            texts, adapters = zip(*chunk, strict=True)
            results = classify_rows(served, texts, adapters, precision=precision)
            for adapter, result in zip(adapters, results, strict=True):
                output.write(json.dumps({"adapter": adapter, **result.as_json()}, allow_nan=False) + "\n")
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
    check_columns(parser, options)
    return options


def check_columns(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 where texts, pairs and columns do not go together.

    Raises:
        ConfigError: --top or --abstain_below out of bounds.
    """
    if options.pair and len(options.pair) != len(options.texts):
        parser.error(f"--pair: {len(options.pair)} for {len(options.texts)} texts; pass it once for every text")
    flags = [f"--{name}" for name in OF_TABLES if getattr(options, name)]
    if flags and not is_table(options.file or ""):
        parser.error(f"{flags[0]} goes with --file and a table: .csv, .tsv, .jsonl, .json or .parquet")
    check_limits(options.top, options.abstain_below)


def build_parser() -> CommandParser:
    """The arguments, and the flags by subject."""
    parser = argument_parser(__doc__)
    add_adapter(parser, nargs="?")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts, or - for one text a line on standard input")
    add_input(parser)
    add_output(parser)
    many = parser.group("many adapters")
    many.add_argument("--adapters", nargs="+", type=named_folder, metavar="NAME=FOLDER", help="in place of ADAPTER")
    meaning = f"rows held at a time (default: {CHUNK}); with 1 every row is answered at once"
    many.add_argument("--chunk", type=int, help=meaning)
    add_shared(parser, "precision", "device", "plain", "fsdp")
    return parser


def add_input(parser: CommandParser) -> None:
    """The flags that say what is classified."""
    rows = parser.group("rows")
    meaning = "second text of a pair; once for every TEXT, in their order"
    rows.add_argument("--pair", action="append", metavar="TEXT2", help=meaning)
    meaning = "a table, or a UTF-8 file with one text a line; with --adapters one JSON object a line"
    rows.add_argument("--file", help=meaning)
    rows.add_argument("--text_column", metavar="NAME", help="of a table (default: as in the training)")
    meaning = "column of the second text of pairs (default: as in the training)"
    rows.add_argument("--pair_column", metavar="NAME", help=meaning)
    meaning = "write the error of a row that can't be classified in its place (`error`), and continue"
    rows.add_argument("--skip_bad_rows", action="store_true", help=meaning)


def add_output(parser: CommandParser) -> None:
    """The flags that say what is written."""
    results = parser.group("results")
    meaning = "new file for the results (.csv .tsv .jsonl .parquet), whole or absent, in place of standard output"
    results.add_argument("--output", help=meaning)
    meaning = "the N highest scores: in a table as label_1, score_1 and so on, in JSON lines as scores"
    results.add_argument("--top", type=int, metavar="N", help=meaning)
    meaning = "probabilities with the temperature that the training fitted on its validation rows"
    results.add_argument("--calibrated", action="store_true", help=meaning)
    meaning = "leave the label out where its score is below P, and say so in `abstained`"
    results.add_argument("--abstain_below", type=float, metavar="P", help=meaning)
    meaning = "written before the names of the added columns, for a table that has these names already"
    results.add_argument("--prefix", default=None, metavar="TEXT", help=meaning)


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


def given_texts(options: argparse.Namespace) -> Iterable[Text]:
    """The texts of the command line, or of a file that is no table, in order; pairs with --pair."""
    if options.file and is_table(options.file):
        check_table(Path(options.file))
        return ()
    if options.file:
        return read_texts(options.file, progress="classify")
    return list(typed_texts(options.texts, options.pair))


def typed_texts(texts: list[str], pairs: list[str] | None) -> Iterator[Text]:
    """The texts or pairs of the command line, or what is wrong with them."""
    for number, text in enumerate(texts, 1):
        first = checked_text(f"text {number}", text)
        second = checked_text(f"--pair {number}", pairs[number - 1]) if pairs else None
        if second is None or isinstance(first, DataError):
            yield first
        else:
            yield second if isinstance(second, DataError) else (first, second)


def text_columns(options: argparse.Namespace, saved: TrainedAdapter) -> TextColumns:
    """The columns to read: those of the flags, else those of the training; of texts `text` and `pair`."""
    if not (options.file and is_table(options.file)):
        return TextColumns("text", "pair" if options.pair else None)
    recorded = saved.provenance.data
    pair = options.pair_column or recorded.pair_column
    return TextColumns(options.text_column or recorded.text_column or "text", pair)


def open_table(options: argparse.Namespace, read: TextColumns, texts: Iterable[Text]) -> InputTable:
    """The records to classify."""
    if not (options.file and is_table(options.file)):
        return TextTable(texts, pairs=read.pair is not None)
    return open_records(Path(options.file), read)


def named_folder(argument: str) -> tuple[str, str]:
    """(name, folder) of `name=folder`."""
    name, equals, folder = argument.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"found {argument!r}, expected NAME=FOLDER")
    return name, folder


if __name__ == "__main__":
    run_command(main, in_processes=IN_PROCESSES, needs_reader=NEEDS_READER, only_classifies=ONLY_CLASSIFIES)
