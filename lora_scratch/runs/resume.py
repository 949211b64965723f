"""Check that a resumed run computes the same as the run that was started, or say what differs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, LoraScratchError, printable
from ..evaluation.report import Report
from ..runtime.atomic import read_json
from ..runtime.distributed import broadcast, is_main
from ..runtime.json_types import JsonReader, shown
from ..runtime.paths import typed_path
from ..serialization.provenance import BaseRecord, DataRecord, TrainingRecord, seal_problems
from .options import TRAIN_OPTIONS

FOLDERS = ("output_dir", "resume")
CONFIG, REPORT = "config.json", "report.json"  # the first and the last file that a run writes
# Entries of config.json that may differ, by the beginning of their name. They change no number, or
# another entry is compared: digests in place of the path of rows and adapter, the fingerprint in place of a name.
FREE = (
    "TrainingConfig.threads",
    "TrainingConfig.max_skipped",
    "RunOptions.",
    "ModelOptions.model",
    "ModelOptions.start_from",
    "start_from.folder",
    "data.dataset",
    "data.source",
    "base.name",
    "versions.",
    "processes",
)
DIGESTS = "data.digests."
SEAL = "sha256"  # the entry of config.json with the digest of the others
# The place and the command line of the run, and entries that config.json holds twice.
UNCOMPARED = ("RunOptions.resume", "RunOptions.output_dir", "command", "training.", "DataOptions.")


def recorded_run(folder: str | Path) -> dict[str, Any] | None:
    """Read config.json of the run in `folder`, as the main process sees it; None for a new run.

    Raises:
        ConfigError: a run does not write such a file, or the path is impossible.
        WorldError: a process is gone.
    """
    typed_path(folder, flag="--resume", written=True)
    recorded: dict[str, Any] | None = json.loads(
        broadcast(json.dumps(_read(Path(folder) / CONFIG) if is_main() else None).encode())
    )
    return recorded


def is_finished(folder: str | Path) -> bool:
    """Return whether the run in `folder` has a whole report, as the main process sees it."""
    return broadcast(bytes([is_main() and has_report(Path(folder))])) == b"\1"


def has_report(folder: Path) -> bool:
    """Return whether report.json can be read as a report: an empty or damaged one has to be written again."""
    try:
        Report.read(folder / REPORT)
    except LoraScratchError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path)
    except LoraScratchError as error:
        raise ConfigError(error.found, where=str(path), remedy="name another folder, or start a new run") from error
    if not isinstance(content, dict) or "TrainingConfig" not in content:
        raise ConfigError("is not the record of a run", where=str(path))
    if problems := _problems(content):
        expected = "what the command train writes"
        raise ConfigError("; ".join(problems), where=str(path), expected=expected, remedy="start a new run")
    if SEAL in content and seal_problems(content, seal=SEAL):  # runs of earlier versions have none
        expected, remedy = "what the run wrote when it started", "put it back, or start a new run"
        raise ConfigError("was changed after the run wrote it", where=str(path), expected=expected, remedy=remedy)
    return {name: value for name, value in content.items() if name != SEAL}


@dataclass(frozen=True)
class _History:
    """What becomes part of the adapter's provenance.json."""

    labels: list[str] | None = None
    task: str | None = None
    data: DataRecord | None = None
    training: TrainingRecord | None = None
    trainable: str | None = None
    command: str | None = None
    base: BaseRecord | None = None


def _problems(content: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the flags of the run, its folder apart, and with its history."""
    reader = JsonReader(allow_unknown=True)
    for kind in TRAIN_OPTIONS:
        section = content.get(kind.__name__, {})
        if isinstance(section, dict):  # with other folders than here a relative path means another one
            section = {name: value for name, value in section.items() if name not in FOLDERS}
            empty = [name for name, value in section.items() if value == ""]
            reader.problems += [f"{kind.__name__}.{shown(name)} is empty" for name in empty]
        try:
            reader.read(kind, section, kind.__name__)
        except ConfigError as error:
            reader.problems.append(f"{kind.__name__}: {error}")
    reader.read(_History, content)
    return reader.problems


def recorded_flags(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every flag that the run was started with, its folder apart."""
    sections = [recorded.get(kind.__name__, {}) for kind in TRAIN_OPTIONS]
    flags = {name: value for section in sections for name, value in section.items()}
    return {name: value for name, value in flags.items() if name not in FOLDERS}


def check_same_run(recorded: Mapping[str, Any] | None, present: Mapping[str, Any], *, folder: str | Path | None) -> None:
    """Compare `present` with the record of a run. Print harmless differences on stderr.

    Args:
        recorded: None for a new run, which has nothing to compare.

    Raises:
        ConfigError: the differences that would change the mathematics.
    """
    if recorded is None:
        return
    here = _flat(json.loads(json.dumps(present)))
    there = _flat({name: recorded.get(name) for name in present})
    differing = {
        name: f"{_flag(name)} is {shown(here.get(name))}, in the run {shown(there.get(name))}"
        for name in {**there, **here}
        if here.get(name) != there.get(name) and not name.startswith(UNCOMPARED)
    }
    refused = {name: clause for name, clause in differing.items() if not name.startswith(FREE)}
    if refused and all(name.startswith(DIGESTS) for name in refused):
        rows = sorted(name.removeprefix(DIGESTS) for name in refused)
        raise ConfigError(
            f"the {', '.join(rows)} rows are not those that the run was started with",
            where=f"--resume {folder}",
            remedy="put the file back as it was, or start a new run",
        )
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ConfigError(
            "; ".join([*refused.values()][:5]) + more,
            where=f"--resume {folder}",
            expected="what the run was started with",
            remedy="leave these flags out, or start a new run",
        )
    for clause in differing.values() if is_main() else ():
        print(printable(f"resume: {clause}"), file=sys.stderr)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in _flat(inner, f"{name}.{part}".strip(".")).items()}


def _flag(name: str) -> str:
    section, _, field = name.partition(".")
    return f"--{field}" if section.endswith(("Options", "Config")) else name
