"""Open a data set by its name: a local file, a local folder, or a name on the hub; find its splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from ..runtime.paths import path_fault, shown_path
from .cells import listed
from .columns import BY_DEFAULT, Columns
from .hub import CardFiles, card_files, has_card, hub_table, load_hub
from .layouts import MRPC_TEXTS, TOGETHER, fitting_layout
from .readers import EXTENSIONS, SPREADSHEETS, column_names, file_kind, file_stem, open_table, unquoted_tsv
from .rows import NoLabelColumn, Row, Table

WHOLE = "all"  # the table of a single file
SPLITS = {
    "train": ("train",),
    "validation": (
        *("validation", "val", "valid", "dev"),
        *("validation_matched", "validation_mismatched", "dev_matched", "dev_mismatched"),
    ),
    "test": ("test", "test_matched", "test_mismatched"),
}
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class SplitTables:
    """The tables of a data set by split.

    Args:
        tables: `train`, `validation` and `test` as far as they exist, train first; or `all` of a single file.
        unlabelled: the splits whose tables have no column of labels.
        names: how the source calls its splits, or its files.
        notes: what was decided, a line each.
        columns: those that are read: the ones that were asked for, or those of a known layout.
    """

    tables: Mapping[str, Table]
    unlabelled: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Columns = BY_DEFAULT


def open_source(source: str, columns: Columns) -> SplitTables:
    """Return the tables of a data set. `DIR:name` and `owner/data:name` name one of its configurations.

    Raises:
        DataError: anything wrong with the source.
    """
    if not source:
        expected = "a file, a folder or a name on the hub"
        raise DataError("no data set is named", where="--dataset", expected=expected)
    if fault := path_fault(source, or_hub=True):
        raise DataError(fault.found, where=shown_path(source), expected=fault.expected)
    if os.path.isdir(source):
        return _open_folder(Path(source), columns)
    name, colon, configuration = source.rpartition(":")
    if colon and os.path.isdir(name):
        return _open_configuration(Path(name), configuration, columns)
    if os.path.exists(source) or file_kind(Path(source)) or not HUB_NAME.fullmatch(source):
        return _open_files({WHOLE: [Path(source)]}, columns)
    return _open_hub(source, columns)


def _open_folder(folder: Path, columns: Columns) -> SplitTables:
    """Open the folder's own files of splits, or those that its dataset card names."""
    if has_card(folder):
        return _open_card(folder, "", columns)
    try:
        files = sorted(path for path in folder.iterdir() if file_kind(path) or path.suffix.lower() in SPREADSHEETS)
    except OSError as error:
        raise DataError(f"the folder could not be read ({error.strerror})", where=str(folder)) from error
    names = [(file_stem(path), path.name) for path in files]
    if not any(name in aliases for aliases in SPLITS.values() for name, _ in names):
        if _has_shards(folder):
            return _open_card(folder, "", columns)
        names = [(name.removeprefix(MRPC_TEXTS), file) for name, file in names]
    if not names and (inner := sorted(path.name for path in folder.iterdir() if path.is_dir())):
        remedy = f"name one of its folders, as {folder / inner[0]}"
        raise DataError(f"no data files, but the folders {listed(inner)}", where=str(folder), remedy=remedy)
    chosen = _choose(names, where=str(folder))
    opened = _open_files({split: [folder / name for name in parts] for split, parts in chosen.items()}, columns)
    return replace(
        opened, names=tuple(path.name for path in files), notes=(*opened.notes, *_notes(chosen, [n for _, n in names]))
    )


def _open_configuration(folder: Path, name: str, columns: Columns) -> SplitTables:
    """Open `DIR:name`: a configuration of its card, or without a card the folder `DIR/name`."""
    if not has_card(folder) and (folder / name).is_dir():
        return _open_folder(folder / name, columns)
    return _open_card(folder, name, columns)


def _has_shards(folder: Path) -> bool:
    """Return whether the folder holds parts of splits as the hub names them: `train-00000-of-00002.parquet`."""
    return any(True for places in ("*-of-*", "data/*-of-*") for _ in folder.glob(places))


def _open_card(folder: Path, configuration: str, columns: Columns) -> SplitTables:
    """Open a copy of a data set in the hub's layout, with the class names that its card declares."""
    card = card_files(folder, configuration)
    where = f"{folder}:{configuration}" if configuration else str(folder)
    chosen = _choose([(name, name) for name in card.files], where=where)
    files = {split: [path for name in parts for path in card.files[name]] for split, parts in chosen.items()}
    opened = _open_files(files, columns, card=card)
    notes = tuple(filter(None, (card.note, *opened.notes, *_notes(chosen, list(card.files)))))
    return replace(opened, names=tuple(card.files), notes=notes)


def _open_files(files: Mapping[str, Sequence[Path]], columns: Columns, *, card: CardFiles | None = None) -> SplitTables:
    """Open the files of every split. All tab files are quoted, or none is."""
    tables: dict[str, Table] = {}
    unlabelled = []
    present = [path for paths in files.values() for path in paths if os.path.isfile(path)]
    columns, said = fitting_layout(column_names(present[0]) if present else [], columns)
    class_names = card.class_names(columns.of_classes, where=str(present[0])) if card and present else ()
    reason = next(filter(None, map(unquoted_tsv, present)), "")
    for split, paths in files.items():
        try:
            parts = [open_table(path, columns, quoted=not reason, class_names=class_names) for path in paths]
        except NoLabelColumn:
            if split in ("train", WHOLE):
                raise
            unlabelled.append(split)
        else:
            tables[split] = _joined(parts)
    return SplitTables(tables, tuple(unlabelled), notes=tuple(filter(None, (reason, said))), columns=columns)


def _joined(parts: Sequence[Table]) -> Table:
    """Return the rows of several files, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def rows() -> Iterator[Row | DataError]:
        """Yield the rows of every file."""
        for part in parts:
            yield from part.rows

    return replace(parts[0], rows=rows())


def _open_hub(source: str, columns: Columns) -> SplitTables:
    """Open the splits of a data set on the hub. One without a column of labels has no table."""
    splits = load_hub(source)
    chosen = _choose([(name, name) for name in splits], where=source)
    columns, said = fitting_layout(next(iter(splits.values())).column_names, columns)
    tables, unlabelled = {}, []
    for split, names in chosen.items():
        try:
            tables[split] = _joined([hub_table(f"{source}/{name}", splits[name], columns) for name in names])
        except NoLabelColumn:
            if split == "train":
                raise
            unlabelled.append(split)
    notes = tuple(filter(None, (said, *_notes(chosen, list(splits)))))
    return SplitTables(tables, tuple(unlabelled), names=tuple(splits), notes=notes, columns=columns)


def _choose(names: Sequence[tuple[str, str]], *, where: str) -> dict[str, list[str]]:
    """Return the source of every split, from pairs of (name, source); two sources for both halves of MNLI's."""
    chosen: dict[str, list[str]] = {}
    for split, aliases in SPLITS.items():
        sources = {name: source for name, source in names if name in aliases}
        taken = [source for name, source in names if name in aliases]
        if len(taken) > 1 and (len(taken) > 2 or set(sources) not in TOGETHER):
            raise DataError(f"{listed(taken)} are all {split}", where=where, expected="one of them")
        if taken:
            chosen[split] = taken
    if not chosen:
        problem = f"no train split among {listed([source for _, source in names])}"
        expected = f"files such as train.csv, validation.csv and test.csv ({' '.join(EXTENSIONS)})"
        raise DataError(problem, where=where, expected=expected)
    return chosen


def _notes(chosen: Mapping[str, Sequence[str]], sources: Sequence[str]) -> list[str]:
    """Return a line for every split that is made of two, and one for the sources that are no split."""
    used = [source for parts in chosen.values() for source in parts]
    unused = [source for source in sources if source not in used]
    together = [f"the {split} rows are those of {' and '.join(parts)}" for split, parts in chosen.items() if len(parts) > 1]
    return [*together, *([f"not used, since the names are no splits: {listed(unused)}"] if unused else [])]
