"""Load the splits of a data set: a local file, a local folder, or a name on the hub."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from .cells import listed, shown
from .checked_rows import IN_ADAPTER, IN_TRAIN, CheckedRows, are_hidden
from .examples import Example, Splits
from .holdout import hold_out
from .labels import AUTO, MULTI_LABEL, REGRESSION, decide_task, label_names, lookalikes_note
from .rows import Columns, Row
from .split_tables import SPLITS, WHOLE, SplitTables, open_source

HELD_OUT_SHARE = 0.1  # of all rows, for every split that the source does not have
OTHERS = ("test", "validation")


def load_splits(
    source: str,
    *,
    text_column: str = "text",
    label_column: str | Sequence[str] = "label",
    pair_column: str | None = None,
    task: str = AUTO,
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> Splits:
    """Return the train, validation and test rows of `source`.

    A folder has `train.*`, `test.*` and perhaps `validation.*` (or `val`, `valid`, `dev`); if not,
    a tenth of the training rows is held out. A single file is split 80/10/10. Where the test rows
    have no labels, the validation rows become the test. Held-out rows are alike in their labels
    and depend only on `seed`. Labels are those of the training rows, spelled as in the file, in
    alphabetical or numerical order, or those that the source declares (a ClassLabel feature).

    Args:
        source: a file (.csv, .tsv, .jsonl, .json, .parquet, or .txt with `text;label`), a folder of
            them, or a name on the hub; `name:configuration` where there are several.
        label_column: several are columns of 0 and 1, one for every label, in the order of the labels.
        pair_column: the column of the second text, for pairs.
        task: single_label, multi_label or regression; auto decides from the labels (labels.py).
        skip_bad_rows: list bad rows in `Splits.skipped` instead of raising the first.

    Raises:
        DataError: anything wrong with the source or a row.
    """
    columns = _checked_columns(source, text_column, label_column, pair_column, task)
    checked = CheckedRows(skip_bad_rows=skip_bad_rows)
    opened = open_source(source, columns)
    columns = opened.columns  # those of a known layout, where none was named
    rows = _labelled_rows(opened, checked, source)
    decision = decide_task(rows[_training(rows)], task if columns.of_classes else MULTI_LABEL)
    rows = {name: checked.in_task(part, decision.task, where=f"{source} ({name})") for name, part in rows.items()}
    splits, split_note = _complete(rows, opened, source=source, seed=seed, task=decision.task)
    class_names = opened.tables[_training(rows)].class_names
    labels = _labels(splits["train"], decision.task, class_names, columns)
    examples = {name: checked.numbered(part, labels, decision.task, known=IN_TRAIN) for name, part in splits.items()}
    _check_training(examples["train"], labels, decision.task, source)
    if not examples["validation"] or not examples["test"]:
        raise DataError("no row with a label of the training rows is left", where=source)
    lookalikes = "" if decision.task == REGRESSION else lookalikes_note(labels)
    notes = (*opened.notes, *_unused_texts_notes(opened, columns), decision.note, lookalikes, split_note)
    skipped, said = tuple(checked.skipped), tuple(filter(None, notes))
    parts: Any = {**examples, "test_split": _test_split(rows, opened), "columns": columns}
    return Splits(**parts, labels=labels, source=source, skipped=skipped, task=decision.task, notes=said)


def load_held_out(
    source: str,
    *,
    labels: Sequence[str],
    task: str,
    text_column: str = "text",
    label_column: str | Sequence[str] = "label",
    pair_column: str | None = None,
    skip_bad_rows: bool = False,
) -> Splits:
    """Return the rows that an adapter is measured on: all of a file, or the test rows of a folder.

    They are `test` of the splits. Without test rows with labels they are the validation rows;
    else these are `validation`. `train` is empty.

    Args:
        labels: of the adapter; a row with another label is bad.
        task: of the adapter.

    Raises:
        DataError: anything wrong with the source or a row.
    """
    columns = _checked_columns(source, text_column, label_column, pair_column, task)
    checked = CheckedRows(skip_bad_rows=skip_bad_rows)
    opened = open_source(source, columns)
    rows, note = _held_out_rows(opened, checked, source, labels)
    examples = {}
    for name, part in rows.items():
        in_task = checked.in_task(part, task, where=f"{source} ({name})")
        examples[name] = checked.numbered(in_task, labels, task, known=IN_ADAPTER)
    if not examples["test"]:
        raise DataError("no row with a label of the adapter is left", where=source)
    notes, skipped = tuple(filter(None, (*opened.notes, note))), tuple(checked.skipped)
    return Splits((), examples.get("validation", ()), examples["test"], tuple(labels), source, skipped, task, notes)


def _checked_columns(source: str, text: str, label: str | Sequence[str], pair: str | None, task: str) -> Columns:
    labels = (label,) if isinstance(label, str) else tuple(label)
    columns = Columns(text, labels[0] if len(labels) == 1 else labels, pair)
    if twice := [name for name in columns.names if columns.names.count(name) > 1]:
        kinds = [flag.removeprefix("--").removesuffix("_column") for flag, name in columns.flags if name == twice[0]]
        problem = f"{' and '.join(kinds)} are both column {twice[0]!r}"
        raise DataError(problem, where=source, remedy="name different columns")
    if len(labels) > 1 and task not in (AUTO, MULTI_LABEL):
        problem = f"--label_column names {len(labels)} columns, which are several labels, and the task is {task}"
        raise DataError(problem, where=source, remedy=f"name one column, or pass --task {MULTI_LABEL}")
    return columns


def _training(rows: Mapping[str, object]) -> str:
    return WHOLE if WHOLE in rows else "train"


def _labelled_rows(opened: SplitTables, checked: CheckedRows, source: str) -> dict[str, list[Row]]:
    """Return the rows of every split that has labels; train, or the rows of the file, must be one."""
    training = _training(opened.tables)
    if training not in opened.tables:
        problem = f"no train split among {listed(opened.names)}"
        raise DataError(problem, where=source, expected="train, test and perhaps validation")
    rows = {training: checked.usable(opened.tables[training].rows, where=f"{source} ({training})")}
    known = {row.label for row in rows[training] if isinstance(row.label, str)}
    for name, table in opened.tables.items():
        if name != training:
            part = checked.labelled(table.rows, where=f"{source} ({name})")
            if part and not are_hidden(part, known=known):
                rows[name] = part
    return rows


def _held_out_rows(
    opened: SplitTables, checked: CheckedRows, source: str, labels: Sequence[str]
) -> tuple[dict[str, list[Row]], str]:
    """Return the rows to measure as `test`, perhaps those of `validation`, and a line where these are the test."""
    rows: dict[str, list[Row]] = {}
    for name in (WHOLE, "test", "validation"):
        if name in opened.tables:
            part = checked.labelled(opened.tables[name].rows, where=f"{source} ({name})")
            if part and not are_hidden(part, known=labels):
                rows[name] = part
    if WHOLE in rows:
        return {"test": rows[WHOLE]}, ""
    if "test" in rows:
        return rows, ""
    if "validation" in rows:
        return {"test": rows["validation"]}, f"{_why_no_test(opened)}: the validation rows are measured"
    problem = f"no test or validation rows with labels among {listed(opened.names or [source])}"
    remedy = "the command predict gives the labels of rows without them"
    raise DataError(problem, where=source, expected="rows to measure", remedy=remedy)


def _complete(
    rows: Mapping[str, list[Row]], opened: SplitTables, *, source: str, seed: int, task: str
) -> tuple[dict[str, list[Row]], str]:
    """Return all three splits, and a line that says which of them are not the source's own.

    Missing ones are held out of the training rows; first the validation rows become a missing test.
    """
    splits = {"train": rows[_training(rows)], **{name: part for name, part in rows.items() if name in OTHERS}}
    lacking = [name for name in OTHERS if name not in splits]
    if lacking == ["test"]:
        splits["test"] = splits.pop("validation")
    n = max(1, round(HELD_OUT_SHARE * len(splits["train"])))
    for name in OTHERS:
        if name not in splits:
            try:
                splits["train"], splits[name] = hold_out(splits["train"], n, seed=seed, name=name, task=task)
            except DataError as error:
                raise DataError(error.found, where=source, remedy=error.remedy) from error
    return {name: splits[name] for name in ("train", "validation", "test")}, _split_note(splits, lacking, opened)


def _test_split(rows: Mapping[str, list[Row]], opened: SplitTables) -> str:
    """Return the source's names of the split that is the test; empty if the rows are held out of train."""
    split = next((name for name in OTHERS if name in rows), "")
    return "+".join(name for name in opened.names if name in SPLITS.get(split, ())) or split


def _split_note(splits: Mapping[str, Sequence[Row]], lacking: Sequence[str], opened: SplitTables) -> str:
    test, validation = len(splits["test"]), len(splits["validation"])
    if WHOLE in opened.tables:
        return ""
    if lacking == ["test"]:
        new = f"the {test:,} validation rows are the test, and {validation:,} rows held out of train the validation"
        return f"{_why_no_test(opened)}: {new}"
    if "test" in lacking:
        return f"{_why_no_test(opened)}: {test:,} and {validation:,} rows held out of train are test and validation"
    if lacking and _exists("validation", opened):
        return f"the validation rows have no labels: {validation:,} rows held out of train take their place"
    return ""


def _why_no_test(opened: SplitTables) -> str:
    if _exists("test", opened):
        return "the test rows have no labels"
    return f"there is no test split among {listed(opened.names)}"


def _exists(split: str, opened: SplitTables) -> bool:
    return split in opened.tables or split in opened.unlabelled


def _labels(train: Sequence[Row], task: str, class_names: tuple[str, ...], columns: Columns) -> tuple[str, ...]:
    if task == REGRESSION or not columns.of_classes:
        return columns.labels
    if task == MULTI_LABEL:
        return class_names or label_names(name for row in train for name in row.label)
    return class_names or label_names(str(row.label) for row in train)


def _check_training(train: Sequence[Example], labels: Sequence[str], task: str, source: str) -> None:
    """Raise DataError if all training rows have one answer, which nothing can be learned from."""
    different = {example.label for example in train}
    if task == MULTI_LABEL and len(labels) < 2:
        problem, expected = f"the lists hold no label but {listed(labels)}", "at least two labels"
        raise DataError(problem, where=source, expected=expected)
    if len(different) < 2:
        label = next(iter(different), None)
        named = labels[label] if isinstance(label, int) else label
        expected = "at least two numbers" if task == REGRESSION else "at least two labels"
        raise DataError(f"every training row has the label {shown(named)}", where=source, expected=expected)


def _unused_texts_notes(opened: SplitTables, columns: Columns) -> tuple[str, ...]:
    """Return a line for every column of texts that is not read, where no pairs are asked for."""
    if columns.pair is not None:
        return ()
    names = opened.tables[_training(opened.tables)].unused_texts
    return tuple(f"column {name!r} is not used; --pair_column {shlex.quote(name)} makes pairs" for name in names)
