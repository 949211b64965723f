"""Records to classify: a chunk at a time, with every column of the input, and the texts of each record checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from ..errors import DataError
from ..runtime.json_text import MOST_DEPTH, levels
from .cells import listed, shown, text_fault
from .rows import bad_row, missing_columns

CHUNK_ROWS = 256  # records in memory at a time: few, since a record can be long

NESTED = (dict, list)  # of JSON
Text = str | tuple[str, str] | DataError  # an error in place of a text that can't be classified
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class TextColumns:
    """The column of the text, and for pairs that of the second text."""

    text: str
    pair: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [self.text, *([self.pair] if self.pair is not None else [])]

    def require(self, names: Sequence[str], *, where: str, first_line: bool = False) -> None:
        """Check that the columns exist, and that every name of a column stands once.

        Args:
            first_line: as for `require_columns`.

        Raises:
            DataError: otherwise; the message lists the columns.
        """
        if self.text == self.pair:
            problem = f"text and second text are both column {self.text!r}"
            raise DataError(problem, where=where, remedy="name different columns")
        flags = dict(zip(("--text_column", "--pair_column"), self.names, strict=False))
        for flag, column in flags.items():
            if column not in names:
                raise missing_columns({column: flag}, names, where=where, first_line=first_line)
        if twice := [name for name in names if names.count(name) > 1]:
            problem = f"more than one column {twice[0]!r} among {listed(names)}"
            raise DataError(problem, where=where, remedy="give every column a name of its own")
        if bad := [name for name in names if readable(name) != name]:
            problem = f"column name {shown(bad[0])} is not UTF-8"
            remedy = "convert the file: iconv -f CP1252 -t UTF-8 FILE > NEW"
            raise DataError(problem, where=where, expected="UTF-8", remedy=remedy)

    def text_of(self, place: str, fields: Fields) -> Text:
        """Return the text of a record, or the pair of texts, or what is wrong with the record."""
        for column, name in zip(self.names, ("text", "second text"), strict=False):
            if column not in fields:
                return bad_row(place, f"no {column!r} among {listed(list(fields))}")
            if fault := text_fault(fields[column], name):
                return bad_row(place, *fault)
        for column, value in fields.items():
            if readable(column) != column or not is_utf8(value):
                return bad_row(place, f"column {shown(column)} is not UTF-8", "UTF-8")
            if is_deep(value):
                return bad_row(place, f"column {shown(column)} is nested too deep", f"at most {MOST_DEPTH} levels")
        return fields[self.text] if self.pair is None else (fields[self.text], fields[self.pair])


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive records.

    Args:
        places: `path:line` of each.
        texts: what is classified of each, or what is wrong with it.
        fields: every column of each; empty for a record that can't be read.
        batch: the same columns as a pyarrow.RecordBatch, in place of `fields`.
    """

    places: Sequence[str]
    texts: Sequence[Text]
    fields: Sequence[Fields] = ()
    batch: Any = None

    @cached_property
    def objects(self) -> Sequence[Fields]:
        """Every column of each record.

        Raises:
            DataError: a value that Python has no object for. Text that is not UTF-8 has escapes where the row is bad.
        """
        if self.batch is None:
            return self.fields
        names = self.batch.schema.names
        columns = [self._values(name, column) for name, column in zip(names, self.batch.columns, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _values(self, name: str, column: Any) -> list[Any]:
        try:
            return exact_values(column)
        except (ValueError, OverflowError):
            rows = zip(self.places, self.texts, column, strict=True)
            return [_value(value, place, name, is_bad=isinstance(text, DataError)) for place, text, value in rows]


class InputTable(ABC):
    """Records of a source, which are read while iterating.

    Args:
        place: of the source, for messages.
        read: the columns of the texts.
        notes: what was decided about the source, a line each.
        quoted: whether a quote is more than a character of its text.
    """

    def __init__(self, place: str, read: TextColumns, *, notes: Sequence[str] = (), quoted: bool = True) -> None:
        self.place, self.read, self.notes, self.quoted = place, read, tuple(notes), quoted

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield all records. Raises DataError where the source can't be read."""

    @cached_property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""

    @cached_property
    def schema(self) -> Any:
        """The pyarrow.Schema of the columns; strings, if the source has no types."""
        import pyarrow as pa  # slow to import

        return pa.schema([(name, pa.string()) for name in self.columns])

    @property
    def n(self) -> int | None:
        """The number of records, if the source says it."""
        return None


class TextTable(InputTable):
    """Texts without other columns: the words of a command line, or the lines of a file."""

    def __init__(self, texts: Iterable[Text], *, pairs: bool = False) -> None:
        super().__init__("the texts", TextColumns("text", "pair" if pairs else None))
        self._texts = texts

    def chunks(self) -> Iterator[Chunk]:
        """Yield the texts. One that can't be classified is None."""
        numbered = ((f"text {number}", text) for number, text in enumerate(self._texts, 1))
        while part := list(islice(numbered, CHUNK_ROWS)):
            places, texts = zip(*part, strict=True)
            yield Chunk(places, texts, [self._fields(text) for text in texts])

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """`text`, and `pair`."""
        return tuple(self.read.names)

    def _fields(self, text: Text) -> Fields:
        if isinstance(text, DataError):
            return dict.fromkeys(self.columns)
        return dict(zip(self.columns, [text] if isinstance(text, str) else text, strict=True))


def chunked(records: Iterable[tuple[str, Fields | DataError]], read: TextColumns) -> Iterator[Chunk]:
    """Yield (place, fields or what is wrong with them) as chunks. All fields can be written as UTF-8."""
    records = iter(records)
    while part := list(islice(records, CHUNK_ROWS)):
        places = [place for place, _ in part]
        texts = [found if isinstance(found, DataError) else read.text_of(place, found) for place, found in part]
        fields = [{} if isinstance(found, DataError) else found for _, found in part]
        good = [_kept(f) if isinstance(text, DataError) else f for text, f in zip(texts, fields, strict=True)]
        yield Chunk(places, texts, good)


def is_utf8(value: Any) -> bool:
    """Return whether UTF-8 can write all strings of the value."""
    parts = levels(value) if isinstance(value, NESTED) else [[value]]
    return all(readable(part) == part for level in parts for part in level if isinstance(part, str))


def is_deep(value: Any) -> bool:
    """Return whether the value has more levels than other functions, which call themselves for each level, can take."""
    return isinstance(value, NESTED) and next(islice(levels(value), MOST_DEPTH, None), None) is not None


def _kept(fields: Fields) -> Fields:
    """Return the columns of a bad row that can be written: with escapes, and None for what is nested too deep."""
    return {readable(name): None if is_deep(value) else readable(value) for name, value in fields.items()}


def readable(value: Any) -> Any:
    """Return the value, with escapes in its strings for what UTF-8 can't write."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {readable(name): readable(inner) for name, inner in value.items()}
    return [readable(inner) for inner in value] if isinstance(value, list) else value


def exact_values(column: Any) -> list[Any]:
    """Return the Python objects of a pyarrow.Array. A time with nanoseconds, which Python has not, is ISO text."""
    if "time64[ns]" in str(column.type):
        return [_exact(value) for value in column]
    return column.to_pylist()  # type: ignore[no-any-return]


def _exact(value: Any) -> Any:
    """Return the Python object of a pyarrow.Scalar, whose type holds a time in nanoseconds."""
    import pyarrow as pa  # slow to import

    if not value.is_valid:
        return None
    if isinstance(value, pa.Time64Scalar) and value.value % 1000:
        return str(value.cast(pa.string()))
    if isinstance(value, pa.StructScalar):
        return {name: _exact(inner) for name, inner in value.items()}
    if isinstance(value, pa.MapScalar):
        return [tuple(_exact(entry).values()) for entry in value.values]
    if isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return [_exact(inner) for inner in value.values]
    return _exact(value.value) if isinstance(value, pa.DictionaryScalar) else value.as_py()


def _value(value: Any, place: str, name: str, *, is_bad: bool) -> Any:
    """Return the Python object of a pyarrow.Scalar; in a bad row text that is not UTF-8 has escapes."""
    try:
        return _exact(value)
    except UnicodeDecodeError as error:
        if is_bad and not value.type.num_fields:  # all of the text, and not a part of the value
            return readable(error.object.decode(errors="surrogateescape"))
        raise _unreadable(place, f"column {shown(name)} is not UTF-8", "UTF-8") from error
    except (ValueError, OverflowError) as error:
        raise _unreadable(place, f"column {shown(name)} can't be read ({error})") from error


def _unreadable(place: str, problem: str, expected: str = "") -> DataError:
    return DataError(problem, where=place, expected=expected, remedy="write to a .parquet file, which keeps it")
