"""A data set of the Hugging Face hub, through `datasets`. It never runs code that comes with a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import DataError
from .rows import Columns, Row, Table, checked_class_names, checked_row, require_columns

ANSWER_WITHIN_S = 10
REMEDY = "connect to the hub, or pass a local file or folder: --dataset PATH"


def open_hub(name: str, columns: Columns) -> dict[str, Table]:
    """The splits of the hub's data set `name`, by the hub's names for them.

    The hub is asked once first. When it does not answer, a copy that `datasets` has cached is used; without one the error
    comes at once, where `datasets` alone would go on trying (25 s without a resolver, 83 s behind a silent firewall).

    Raises:
        DataError: the hub can't be reached and there is no cached copy; no such data set; a column that is not there.
    """
    unreachable = _ask_hub(name)
    splits = _load(name) if unreachable is None else _load_cached(name, unreachable)
    return {str(split): _table(f"{name}/{split}", rows, columns) for split, rows in splits.items()}


def _ask_hub(name: str) -> Exception | None:
    """None if the hub knows `name`, else why it did not answer."""
    from huggingface_hub import HfApi  # a slow import, and local files do without it
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=ANSWER_WITHIN_S)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise DataError(
            "neither a local file or folder nor a public data set of the hub",
            where=name,
            remedy="check the name and the path",
        ) from error
    except Exception as error:  # the transport below the hub client has error types of its own, and they change with it
        return error
    return None


def _load(name: str) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name)
    except Exception as error:  # errors of `datasets`, of the hub client, of pyarrow and of the file system alike
        raise DataError(f"the hub's data set could not be loaded ({_reason(error)})", where=name, remedy=REMEDY) from error


def _load_cached(name: str, unreachable: Exception) -> Any:
    from datasets import load_dataset

    try:
        with _offline():
            return load_dataset(name)
    except Exception as error:
        raise DataError(
            f"no local file or folder, and the Hugging Face hub could not be reached ({_reason(unreachable)})",
            where=name,
            remedy=REMEDY,
        ) from error


@contextmanager
def _offline() -> Iterator[None]:
    """HF_HUB_OFFLINE=1 for a while: both libraries read the variable at import, so their constants are what counts."""
    import datasets.config
    import huggingface_hub.constants

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _table(place: str, rows: Any, columns: Columns) -> Table:
    require_columns(rows.column_names, columns, where=place)
    # a ClassLabel feature has names
    names = checked_class_names(getattr(rows.features[columns.label], "names", None), where=place)
    return Table(_rows(place, rows.select_columns([columns.text, columns.label]), columns, names), names)


def _rows(place: str, rows: Any, columns: Columns, class_names: tuple[str, ...]) -> Iterator[Row | DataError]:
    for number, row in enumerate(rows, start=1):
        yield checked_row(f"{place}:{number}", row[columns.text], row[columns.label], class_names=class_names)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
