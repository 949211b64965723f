"""Read a parquet file in batches, with the label names that `datasets` writes into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .rows import Columns, Row, Rows, Table, bad_row, checked_class_names, require_columns, row_of

SAMPLE_ROWS = 100
UnusedTexts = Callable[[Sequence[dict[str, Any]], Columns], tuple[str, ...]]


def open_parquet(path: Path, columns: Columns, *, unused_texts: UnusedTexts, class_names: tuple[str, ...] = ()) -> Table:
    """Return the rows of a parquet file, numbered from 1, which are read while iterating.

    Args:
        class_names: the label names, if the file itself declares none.

    Raises:
        DataError: it can't be read, or has no such column.
    """
    file = _open(path)
    schema = file.schema_arrow
    require_columns(list(schema.names), columns, where=str(path))
    class_names = _declared_names(schema, columns.of_classes, where=str(path)) or class_names
    unused = unused_texts(_sample(file, columns), columns)
    return Table(_parquet_rows(path, file, columns, class_names), class_names, unused_texts=unused)


def parquet_names(path: Path) -> list[str]:
    """Return the names of the columns. Raises DataError where the file can't be read."""
    return list(_open(path).schema_arrow.names)


def _open(path: Path) -> Any:
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _ = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    return file


def class_names_of(feature: object) -> object:
    """Return the names in a feature as `datasets` describes it: of a ClassLabel, or of a list of them."""
    if isinstance(feature, list):
        return class_names_of(feature[0]) if feature else None
    if not isinstance(feature, Mapping):
        return None
    return feature["names"] if "names" in feature else class_names_of(feature.get("feature"))


def _sample(file: Any, columns: Columns) -> list[dict[str, Any]]:
    """Return the first rows of the other columns that hold strings, none where they can't be read."""
    import pyarrow as pa

    strings = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
    others = [name for name in strings if name not in columns.names and strings.count(name) == 1]
    try:
        batch = next(file.iter_batches(batch_size=SAMPLE_ROWS, columns=others), None) if others else None
        return batch.to_pylist() if batch is not None else []
    except (pa.ArrowException, OSError, ValueError):
        return []  # the rows themselves will say what is broken


def _parquet_rows(path: Path, file: Any, columns: Columns, names: tuple[str, ...]) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(columns=columns.names):
            arrays = [_spelled_short(batch[name]) for name in columns.names]
            for values in zip(*arrays, strict=True):
                number += 1
                yield _parquet_row(f"{path}:{number}", dict(zip(columns.names, values, strict=True)), columns, names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    if number != (declared := file.metadata.num_rows):
        raise _broken_parquet(path, ValueError(f"it holds {number} rows and says {declared}"))


def _spelled_short(array: Any) -> Any:
    """Return float32 values as the float64 values with the same shortest spelling: 0.1, not 0.10000000149."""
    import pyarrow as pa

    if not (pa.types.is_float32(array.type) or pa.types.is_float16(array.type)):
        return array
    numbers = [float(str(number)) for number in array.to_numpy(zero_copy_only=False)]
    return pa.array(numbers, pa.float64())


def _parquet_row(place: str, values: Mapping[str, Any], columns: Columns, names: tuple[str, ...]) -> Row | DataError:
    try:
        return row_of(place, {name: value.as_py() for name, value in values.items()}, columns, class_names=names)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        problem = f"not UTF-8: byte 0x{byte:02x} at byte {error.start + 1}"
        return bad_row(place, problem, "UTF-8")
    except (ValueError, OverflowError) as error:  # a date that Python has no object for
        problem = f"a value that can't be read ({error})"
        return bad_row(place, problem, "a string, and a string or a number")


def _declared_names(schema: Any, label_column: str, *, where: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel column, from the metadata that `datasets` writes, if any."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label_column]
        names = class_names_of(feature)
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return checked_class_names(names, where=where)


def _broken_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"not a readable parquet file ({str(error)[:200]})", where=str(path))
