"""Load the splits of a data set: a local file, a local folder, or a name on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError
from ..runtime.paths import path_fault, shown_path
from .examples import Example, Splits
from .holdout import hold_out
from .hub import open_hub
from .readers import EXTENSIONS, open_table
from .rows import Columns, Row, Table, bad_row, listed, shown

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
HELD_OUT_SHARE = 0.1  # of all rows, for every split that the source does not have
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def load_splits(
    source: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> Splits:
    """Return the train, validation and test rows of `source`.

    A folder has `train.*`, `test.*` and perhaps `validation.*` (or `val`, `valid`, `dev`); if not,
    a tenth of the training rows is held out. A single file is split 80/10/10. Held-out rows have
    the same share of every label and depend only on `seed`. Labels are those of the training rows,
    in alphabetical or numerical order, or those that the source declares (a ClassLabel feature).

    Args:
        source: a .csv, .tsv, .jsonl, .parquet or .txt (`text;label`) file, a folder of them, or a
            name on the hub.
        skip_bad_rows: list bad rows in `Splits.skipped` instead of raising the first.

    Raises:
        DataError: anything wrong with the source or a row.
    """
    if text_column == label_column:
        problem = f"text and label are both column {text_column!r}"
        raise DataError(problem, where=source, remedy="name two columns")
    checked = _CheckedRows(skip_bad_rows=skip_bad_rows)
    tables = _open(source, Columns(text_column, label_column))
    rows = {name: checked.usable(t.rows, where=f"{source} ({name})") for name, t in tables.items()}
    class_names = next(iter(tables.values())).class_names
    try:
        splits = _complete(rows, seed=seed)
    except DataError as error:
        raise DataError(error.found, where=source, remedy=error.remedy) from error
    labels = class_names or label_names([row.label for row in splits["train"]])
    train = checked.numbered(splits["train"], labels)
    if len({example.label for example in train}) < 2:
        problem = f"every training row has the label {shown(labels[train[0].label])}"
        raise DataError(problem, where=source, expected="at least two labels")
    validation, test = (checked.numbered(splits[name], labels) for name in ("validation", "test"))
    if not validation or not test:
        raise DataError("no row with a label of the training rows is left", where=source)
    skipped = tuple(checked.skipped)
    return Splits(train, validation, test, labels=labels, source=source, skipped=skipped)


def label_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return the different labels, in numerical order if all are integers, else alphabetical."""
    names = {integer_name(value) or value for value in values}
    integers = all(integer_name(name) for name in names)
    return tuple(sorted(names, key=int) if integers else sorted(names))


def integer_name(value: str) -> str | None:
    """Return the standard form of an integer (`1` for `+01`); None if `value` is none."""
    return str(int(value)) if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else None


class _CheckedRows:
    """Raises bad rows, or lists them in `skipped` if `skip_bad_rows`."""

    def __init__(self, *, skip_bad_rows: bool) -> None:
        self.skip_bad_rows = skip_bad_rows
        self.skipped: list[str] = []

    def usable(self, rows: Iterable[Row | DataError], *, where: str) -> list[Row]:
        """Return the good rows, at least one."""
        before, usable = len(self.skipped), []
        for row in rows:
            if isinstance(row, Row):
                usable.append(row)
            else:
                self._refuse(row)
        if not usable:
            bad, problem = self.skipped[before:], "the data set has no rows"
            if bad:
                problem = f"none of the {len(bad)} rows is usable: {bad[0]}"
            raise DataError(problem, where=where)
        return usable

    def numbered(self, rows: Sequence[Row], labels: Sequence[str]) -> tuple[Example, ...]:
        """Return the rows as examples. A row with another label than `labels` is bad."""
        numbers = {label: number for number, label in enumerate(labels)}
        examples = []
        for row in rows:
            number = numbers.get(row.label, numbers.get(integer_name(row.label) or row.label))
            if number is None:
                problem = f"label {shown(row.label)} is not in the training rows"
                self._refuse(bad_row(row.place, problem, listed(labels)))
            else:
                examples.append(Example(row.text, number))
        return tuple(examples)

    def _refuse(self, error: DataError) -> None:
        if not self.skip_bad_rows:
            raise error
        self.skipped.append(f"{error.where}: {error.found}")


def _open(source: str, columns: Columns) -> dict[str, Table]:
    """Return the tables by split name, train first. A single file is one table, `all`."""
    if not source:
        expected = "a file, a folder or a name on the hub"
        raise DataError("no data set is named", where="--dataset", expected=expected)
    if fault := path_fault(source, or_hub=True):
        raise DataError(fault.found, where=shown_path(source), expected=fault.expected)
    if os.path.isdir(source):
        files = _split_files(Path(source))
        return {name: open_table(path, columns) for name, path in files.items()}
    local = os.path.exists(source) or Path(source).suffix in EXTENSIONS
    if local or not HUB_NAME.fullmatch(source):
        return {"all": open_table(Path(source), columns)}
    tables = open_hub(source, columns)
    names = _by_split([(name, name) for name in tables], where=source)
    return {split: tables[name] for split, name in names.items()}


def _split_files(folder: Path) -> dict[str, Path]:
    where = str(folder)
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in EXTENSIONS)
    except OSError as error:
        raise DataError(f"the folder could not be read ({error.strerror})", where=where) from error
    names = _by_split([(path.stem, path.name) for path in files], where=where)
    return {split: folder / name for split, name in names.items()}


def _by_split(names: Sequence[tuple[str, str]], *, where: str) -> dict[str, str]:
    """Return the source of every split, from pairs of (name, source)."""
    by_split: dict[str, str] = {}
    for split, aliases in SPLITS.items():
        sources = [source for name, source in names if name in aliases]
        if len(sources) > 1:
            problem = f"{listed(sources)} are all {split}"
            raise DataError(problem, where=where, expected="one of them")
        if not sources and split != "validation":
            problem = f"no {split} split among {listed([source for _, source in names])}"
            expected = "train, test and perhaps validation"
            remedy = "pass a single file to have it split 80/10/10" if split == "test" else ""
            raise DataError(problem, where=where, expected=expected, remedy=remedy)
        if sources:
            by_split[split] = sources[0]
    return by_split


def _complete(rows: dict[str, list[Row]], *, seed: int) -> dict[str, list[Row]]:
    """Return all three splits. Missing ones are held out from the training rows."""
    rows = dict(rows)
    if "all" in rows:
        rows["train"] = rows.pop("all")
    n = max(1, round(HELD_OUT_SHARE * len(rows["train"])))
    for name in ("test", "validation"):
        if name not in rows:
            rows["train"], rows[name] = hold_out(rows["train"], n, seed=seed, name=name)
    return rows
