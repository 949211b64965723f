"""Open a data set of the Hugging Face hub with `datasets`, which never runs code of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..errors import DataError
from .rows import Columns, Rows, Table, checked_class_names, checked_row, require_columns

TIMEOUT_S = 10
REMEDY = "connect to the hub, or pass a local file or folder: --dataset PATH"


def open_hub(name: str, columns: Columns) -> dict[str, Table]:
    """Return the splits of the hub's data set `name`, by the hub's names.

    First the hub is asked once. If it does not answer, the copy in the cache of `datasets` is used;
    `datasets` alone would retry for 25 to 83 s.

    Raises:
        DataError: no hub and no cached copy, no such data set, or no such column.
    """
    unreachable = _ask_hub(name)
    splits = _load(name, unreachable)
    return {str(split): _table(f"{name}/{split}", rows, columns) for split, rows in splits.items()}


def _ask_hub(name: str) -> Exception | None:
    """Return None if the hub knows `name`, else why it did not answer."""
    from huggingface_hub import HfApi  # slow to import, and local files don't need it
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT_S)
    except (HFValidationError, RepositoryNotFoundError) as error:
        problem = "neither a local file or folder nor a public data set of the hub"
        raise DataError(problem, where=name, remedy="check the name and the path") from error
    except Exception as error:  # the transport has its own error types
        return error
    return None


def _load(name: str, unreachable: Exception | None) -> Any:
    from datasets import load_dataset

    try:
        with _offline() if unreachable else nullcontext():
            return load_dataset(name)
    except Exception as error:  # of `datasets`, the hub client, pyarrow or the file system
        problem = "no local file or folder, and the Hugging Face hub could not be reached"
        if not unreachable:
            problem = "the hub's data set could not be loaded"
        problem += f" ({_reason(unreachable or error)})"
        raise DataError(problem, where=name, remedy=REMEDY) from error


@contextmanager
def _offline() -> Iterator[None]:
    """Do as HF_HUB_OFFLINE=1 does. Both libraries read the variable at import, into constants."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _table(place: str, rows: Any, columns: Columns) -> Table:
    require_columns(rows.column_names, columns, where=place)
    declared = getattr(rows.features[columns.label], "names", None)  # of a ClassLabel
    names = checked_class_names(declared, where=place)
    rows = rows.select_columns([columns.text, columns.label])
    return Table(_rows(place, rows, columns, names), names)


def _rows(place: str, rows: Any, columns: Columns, names: tuple[str, ...]) -> Rows:
    for number, row in enumerate(rows, start=1):
        text, label = row[columns.text], row[columns.label]
        yield checked_row(f"{place}:{number}", text, label, class_names=names)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
