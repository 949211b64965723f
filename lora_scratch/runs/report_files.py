"""The files of --json and --html are checked before the work: a report overwrites nothing that the command reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.hub import has_card
from ..data.readers import file_stem
from ..data.split_tables import SPLITS
from ..errors import ConfigError, LoraScratchError
from ..serialization.adapter_folder import read_base_name, read_provenance
from ..training.margins import MARGINS
from .flags import PATHS, WRITTEN
from .hub import LOG
from .loading import DEMO
from .logits import LOGITS
from .resume import CONFIG, REPORT
from .run_folder import check_file

REPORTS = ("json", "html")
ADAPTERS = frozenset({"adapter", "add", "average", "subtract"})  # flags and arguments whose value is an adapter folder
OF_A_RUN = frozenset(  # what train writes to the folder of a run; other files there are reports of earlier commands
    (CONFIG, REPORT, "report.html", LOG, LOGITS, MARGINS, "adapter", "model", "state", "tensorboard")
)
SPLIT_WORDS = frozenset(word for aliases in SPLITS.values() for alias in aliases for word in alias.split("_"))


def check_reports(*options: object) -> None:
    """Check that the files of --json and --html can be written, and are apart from all that the command reads and writes.

    Args:
        options: the objects with the flags of the command, also those of its inputs.

    Raises:
        ConfigError: a report has an impossible path, is an input or in an input's folder, or both are one file.
    """
    given = {name: value for part in options for name, value in vars(part).items()}
    reports = {f"--{name}": str(given[name]) for name in REPORTS if given.get(name) is not None}
    places = [*_places(given)] if reports else []
    for flag, path in reports.items():
        check_file(path, flag=flag)
        for kind, place in places:
            if any(_overwrites(report, Path(os.path.realpath(place)), kind=kind) for report in _real_paths(path)):
                found = f"is taken by {place}, which this command reads or writes"
                expected = "a file apart from its inputs and its other results"
                raise ConfigError(found, where=f"{flag} {path}", expected=expected, remedy="choose another")
        places.append(("html", path))


def _places(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (kind, path) for every file and folder that the command reads or writes, the reports apart."""
    for name in sorted(PATHS.difference(REPORTS) & given.keys()):
        for value in given[name] if isinstance(given[name], list) else [given[name]]:
            if isinstance(value, str) and value != DEMO:
                yield from _local(name, value)
            if isinstance(value, str) and name in ADAPTERS and os.path.isdir(value):
                yield from _of_adapter(Path(value))


def _local(kind: str, value: str) -> Iterator[tuple[str, str]]:
    """Yield the place unless it is a name on the hub; a data set `DIR:name` is in DIR."""
    folder = value.rpartition(":")[0] if kind == "dataset" and not os.path.exists(value) else value
    if kind in WRITTEN or (folder and os.path.exists(folder)):
        yield kind, folder


def _of_adapter(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the run that an adapter is of, and the base and the rows that its records name."""
    run = Path(os.path.realpath(folder)).parent
    if (run / LOG).exists():
        yield "run", str(run)
    try:
        recorded, base = read_provenance(folder), read_base_name(folder)
    except LoraScratchError:  # a damaged folder is reported by the command
        return
    names: list[tuple[str, str | None]] = [("model", base)]
    if recorded:
        names += [("model", recorded.base.name), ("dataset", recorded.data.dataset), ("dataset", recorded.data.source)]
    for kind, name in names:
        if name and name != DEMO:
            yield from _local(kind, name)


def _real_paths(path: str) -> set[Path]:
    """Return the file that is named, and the one that is replaced, which differ for a symbolic link."""
    return {Path(os.path.realpath(path)), Path(os.path.realpath(Path(path).parent)) / Path(path).name}


def _overwrites(report: Path, place: Path, *, kind: str) -> bool:
    """Return whether writing `report` would change the file or folder `place`. Both are real paths."""
    if report == place or report in place.parents:
        return True
    if place not in report.parents:
        return place.is_file() and report.is_file() and os.path.samefile(place, report)
    inside = report.relative_to(place)
    if kind == "dataset":
        return has_card(place) or not SPLIT_WORDS.isdisjoint(re.split(r"[\W_]+", file_stem(report).lower()))
    if kind == "run" or (place / LOG).exists():
        return inside.parts[0] in OF_A_RUN
    return kind != "figures"  # a report may be next to the pictures
