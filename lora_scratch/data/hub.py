"""Open a data set of the Hugging Face hub with `datasets`, which never runs code of a data set.

A data set can have configurations: `owner/name:configuration`. A local copy in the hub's layout is
a folder with a dataset card (README.md) whose head names the files of every configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from .cells import listed
from .parquet import SAMPLE_ROWS
from .readers import unused_texts
from .rows import Columns, Rows, Table, checked_class_names, require_columns, row_of

TIMEOUT_S = 10
REMEDY = "connect to the hub, or pass a local file or folder: --dataset PATH"
CARD_HEAD = re.compile(r"\A---\n(?:(?!---\n).*\n)*?(configs|dataset_info):", re.MULTILINE)


def load_hub(source: str) -> Mapping[str, Any]:
    """Return the splits of the hub's data set `name` or `name:configuration`, by the hub's names.

    First the hub is asked once. If it does not answer, the copy in the cache of `datasets` is used;
    `datasets` alone would retry for 25 to 83 s.

    Raises:
        DataError: no hub and no cached copy, or no such data set.
    """
    name, _, configuration = source.partition(":")
    unreachable = _ask_hub(name)
    return {str(split): rows for split, rows in _load(name, configuration, unreachable).items()}


def has_card(folder: Path) -> bool:
    """Return whether the folder has a dataset card that describes its files."""
    try:
        return bool(CARD_HEAD.match((folder / "README.md").read_text(encoding="utf-8").replace("\r\n", "\n")))
    except (OSError, ValueError):
        return False


class CardFiles(NamedTuple):
    """The files of every split that a dataset card names, its features, and a line that says which part it is."""

    files: dict[str, list[Path]]
    features: Mapping[str, Any]
    note: str

    def class_names(self, label_column: str, *, where: str) -> tuple[str, ...]:
        """Return the names that the card declares for the numbers of this column."""
        return checked_class_names(_feature_names(self.features.get(label_column)), where=where)


def card_files(folder: Path, configuration: str) -> CardFiles:
    """Return the files of a local copy in the hub's layout.

    Raises:
        DataError: the card can't be read, or the configuration is missing or unknown.
    """
    from datasets import get_dataset_config_names, load_dataset_builder

    try:
        builder = load_dataset_builder(str(folder), *filter(None, [configuration]))
        names = get_dataset_config_names(str(folder))
    except Exception as error:  # of `datasets`, its readers of YAML, or the file system
        raise _not_loaded(str(folder), configuration, "its dataset card can't be used", error) from error
    data_files = builder.config.data_files or {}
    files = {str(split): [Path(file) for file in part] for split, part in data_files.items()}
    chosen = f"configuration {builder.config.name!r} of {listed(names)}"
    return CardFiles(files, builder.info.features or {}, chosen if len(names) > 1 and not configuration else "")


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


def _load(name: str, configuration: str, unreachable: Exception | None) -> Any:
    from datasets import load_dataset

    try:
        with _offline() if unreachable else nullcontext():
            return load_dataset(name, *filter(None, [configuration]))
    except Exception as error:  # of `datasets`, the hub client, pyarrow or the file system
        if not unreachable:
            raise _not_loaded(name, configuration, "the hub's data set could not be loaded", error) from error
        problem = "no local file or folder, and the Hugging Face hub could not be reached"
        raise DataError(f"{problem} ({_reason(unreachable)})", where=name, remedy=REMEDY) from error


def _not_loaded(name: str, configuration: str, problem: str, error: Exception) -> DataError:
    """Return the error; where the configuration is missing or unknown, it lists them."""
    from datasets import get_dataset_config_names

    try:
        names = [str(each) for each in get_dataset_config_names(name)]
    except Exception:  # whatever made loading fail can make this fail too
        names = []
    if configuration not in names and (configuration or len(names) > 1) and names:
        found = f"there is no configuration {configuration!r}" if configuration else "it has several configurations"
        return DataError(found, where=name, expected=f"one of {listed(names)}", remedy=f"pass {name}:{names[0]}")
    return DataError(f"{problem} ({_reason(error)})", where=name, remedy=REMEDY)


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


def hub_table(place: str, rows: Any, columns: Columns) -> Table:
    """Return the rows of a split, which `load_hub` gives.

    Raises:
        DataError: no such column.
    """
    require_columns(rows.column_names, columns, where=place)
    names = checked_class_names(_feature_names(rows.features.get(columns.of_classes)), where=place)
    sample = list(islice(rows, SAMPLE_ROWS))
    chosen = rows.select_columns(columns.names)
    return Table(_rows(place, chosen, columns, names), names, unused_texts=unused_texts(sample, columns))


def _rows(place: str, rows: Any, columns: Columns, names: tuple[str, ...]) -> Rows:
    for number, row in enumerate(rows, start=1):
        yield row_of(f"{place}:{number}", row, columns, class_names=names)


def _feature_names(feature: Any) -> Any:
    """Return the names of a ClassLabel, or of a list of them; None of another feature."""
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
