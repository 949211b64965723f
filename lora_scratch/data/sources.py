"""From the name of a data set to its splits: a local file, a local folder, or a name on the hub."""

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
HELD_OUT_SHARE = 0.1  # of all rows, for each split that the source does not have
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def load_splits(
    source: str, *, text_column: str = "text", label_column: str = "label", seed: int = 0, skip_bad_rows: bool = False
) -> Splits:
    """The train, validation and test rows of `source`.

    A folder holds `train.*`, `test.*` and perhaps `validation.*` (or `val`, `valid`, `dev`); without it a tenth of the
    training rows is set aside. A single file is split 80/10/10. Both keep every label's share and depend on `seed` alone.

    Labels are those of the training rows: strings in alphabetical order, integers in numerical order. A data set of the
    hub, or a parquet file, that declares its label names keeps them and their order.

    Args:
        source: a .csv, .tsv, .jsonl, .parquet or .txt (`text;label`) file, a folder of them, or a name on the hub.
        text_column: the column of the text; a .txt file has no columns.
        skip_bad_rows: list bad rows in `Splits.skipped` and leave them out, in place of stopping at the first.

    Raises:
        DataError: anything about the source or a row that is not as it should be.
    """
    if text_column == label_column:
        raise DataError(f"text and label are both column {text_column!r}", where=source, remedy="name two columns")
    door = _Door(skip_bad_rows=skip_bad_rows)
    tables = _open(source, Columns(text_column, label_column))
    rows = {name: door.usable(table.rows, where=f"{source} ({name})") for name, table in tables.items()}
    class_names = next(iter(tables.values())).class_names
    try:
        splits = _complete(rows, seed=seed)
    except DataError as error:
        raise DataError(error.found, where=source, remedy=error.remedy) from error
    labels = class_names or label_names([row.label for row in splits["train"]])
    train = door.numbered(splits["train"], labels)
    if len({example.label for example in train}) < 2:
        only = shown(labels[train[0].label])
        raise DataError(f"every training row has the label {only}", where=source, expected="at least two labels")
    validation, test = (door.numbered(splits[name], labels) for name in ("validation", "test"))
    if not validation or not test:
        raise DataError("no row with a label of the training rows is left", where=source)
    return Splits(train, validation, test, labels=labels, source=source, skipped=tuple(door.skipped))


def label_names(values: Iterable[str]) -> tuple[str, ...]:
    """The different labels: in numerical order if all are integers, else in alphabetical order."""
    names = {integer_name(value) or value for value in values}
    integers = all(integer_name(name) for name in names)
    return tuple(sorted(names, key=int) if integers else sorted(names))


def integer_name(value: str) -> str | None:
    """The one way to write the integer that `value` is (`+01` is `1`); None if it is none."""
    return str(int(value)) if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else None


class _Door:
    """Lets usable rows in; a bad one is raised, or listed under `skip_bad_rows`."""

    def __init__(self, *, skip_bad_rows: bool) -> None:
        self.skip_bad_rows = skip_bad_rows
        self.skipped: list[str] = []

    def usable(self, rows: Iterable[Row | DataError], *, where: str) -> list[Row]:
        """The rows without the bad ones; at least one."""
        before = len(self.skipped)
        usable = [row for row in rows if isinstance(row, Row) or self._refuse(row)]
        if not usable:
            n_bad = len(self.skipped) - before
            found = f"none of the {n_bad} rows is usable: {self.skipped[before]}" if n_bad else "the data set has no rows"
            raise DataError(found, where=where)
        return [row for row in usable if isinstance(row, Row)]

    def numbered(self, rows: Sequence[Row], labels: Sequence[str]) -> tuple[Example, ...]:
        """The rows as examples; a label that is none of `labels` makes a bad row."""
        numbers = {label: number for number, label in enumerate(labels)}
        examples = []
        for row in rows:
            number = numbers.get(row.label, numbers.get(integer_name(row.label) or row.label))
            if number is None:
                self._refuse(bad_row(row.place, f"label {shown(row.label)} is not in the training rows", listed(labels)))
            else:
                examples.append(Example(row.text, number))
        return tuple(examples)

    def _refuse(self, error: DataError) -> bool:
        if not self.skip_bad_rows:
            raise error
        self.skipped.append(f"{error.where}: {error.found}")
        return False


def _open(source: str, columns: Columns) -> dict[str, Table]:
    """The tables by split name, train first; a single file is one table, `all`."""
    if not source:
        raise DataError("no data set is named", where="--dataset", expected="a file, a folder or a name on the hub")
    if fault := path_fault(source, or_hub=True):
        raise DataError(fault.found, where=shown_path(source), expected=fault.expected)
    if os.path.isdir(source):
        return {name: open_table(path, columns) for name, path in _split_files(Path(source)).items()}
    if os.path.exists(source) or Path(source).suffix in EXTENSIONS or not HUB_NAME.fullmatch(source):
        return {"all": open_table(Path(source), columns)}
    tables = open_hub(source, columns)
    return {split: tables[name] for split, name in _by_split([(name, name) for name in tables], where=source).items()}


def _split_files(folder: Path) -> dict[str, Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in EXTENSIONS)
    except OSError as error:
        raise DataError(f"the folder could not be read ({error.strerror})", where=str(folder)) from error
    names = _by_split([(path.stem, path.name) for path in files], where=str(folder))
    return {split: folder / name for split, name in names.items()}


def _by_split(found: Sequence[tuple[str, str]], *, where: str) -> dict[str, str]:
    """Which of `found`, pairs of (what a split is called, where it is), is which split; train and test are a must."""
    by_split: dict[str, str] = {}
    for split, aliases in SPLITS.items():
        places = [place for name, place in found if name in aliases]
        if len(places) > 1:
            raise DataError(f"{listed(places)} are all {split}", where=where, expected="one of them")
        if not places and split != "validation":
            raise DataError(
                f"no {split} split among {listed([place for _, place in found])}",
                where=where,
                expected="train, test and perhaps validation",
                remedy="pass a single file to have it split 80/10/10" if split == "test" else "",
            )
        if places:
            by_split[split] = places[0]
    return by_split


def _complete(rows: dict[str, list[Row]], *, seed: int) -> dict[str, list[Row]]:
    """All three splits, the missing ones set aside from the rows there are."""
    rows = dict(rows)
    if "all" in rows:
        rows["train"] = rows.pop("all")
    n = max(1, round(HELD_OUT_SHARE * len(rows["train"])))
    for name in ("test", "validation"):
        if name not in rows:
            rows["train"], rows[name] = hold_out(rows["train"], n, seed=seed, name=name)
    return rows
