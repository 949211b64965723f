"""Open a .parquet file to classify. Its columns stay as they are in memory, so that every value keeps its type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError
from .records import CHUNK_ROWS, Chunk, InputTable, Text, TextColumns
from .rows import bad_row

BUFFER_BYTES = 2**16  # of a column that are read at once, not its whole row group


class ParquetTable(InputTable):
    """A .parquet file, whose columns keep their types."""

    def __init__(self, path: Path, read: TextColumns) -> None:
        import pyarrow as pa  # slow to import
        import pyarrow.parquet as pq

        super().__init__(str(path), read)
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=BUFFER_BYTES)
            self._schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._broken(error) from error
        read.require(self.columns, where=str(path))

    def chunks(self) -> Iterator[Chunk]:
        """Yield all records as they are decoded, a part of a row group at a time."""
        import pyarrow as pa

        first = 1
        try:
            for batch in self._file.iter_batches(CHUNK_ROWS):
                places = [f"{self.place}:{number}" for number in range(first, first + batch.num_rows)]
                columns = [batch.column(name) for name in self.read.names]
                cells = zip(places, zip(*columns, strict=True), strict=True)
                yield Chunk(places, [self._text(place, values) for place, values in cells], batch=batch)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        if first - 1 != self.n:
            raise self._broken(ValueError(f"it holds {first - 1} rows and says {self.n}"))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names in the file's schema."""
        return tuple(self._schema.names)

    @cached_property
    def schema(self) -> Any:
        """The file's own, with its metadata."""
        return self._schema

    @property
    def n(self) -> int:
        """The rows that the file says it has."""
        return int(self._file.metadata.num_rows)

    def _text(self, place: str, values: Iterable[Any]) -> Text:
        try:
            return self.read.text_of(place, {n: v.as_py() for n, v in zip(self.read.names, values, strict=True)})
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            return bad_row(place, f"the text is not UTF-8: byte 0x{byte:02x} at byte {error.start + 1}", "UTF-8")
        except (OverflowError, ValueError) as error:  # a date that Python has no object for
            return bad_row(place, f"the text can't be read ({error})", "a string")

    def _broken(self, error: Exception) -> DataError:
        return DataError(f"not a readable parquet file ({str(error)[:200]})", where=self.place)
