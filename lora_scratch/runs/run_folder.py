"""The folder of a run: one run, one folder, one writer, and never overwritten."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Interrupted, LoraScratchError
from ..runtime.atomic import NAME_ONE, NAMELESS, file_errors, is_nameless, remove_leftovers, write_json
from ..runtime.distributed import broadcast, is_main
from ..runtime.lock import LOCK, sole_writer
from ..runtime.paths import typed_path
from ..serialization.provenance import sealed
from .options import RunOptions
from .resume import CONFIG, SEAL

OUTPUT_DIR = "--output_dir"


@contextmanager
def run_folder(options: RunOptions, record: Mapping[str, Any]) -> Iterator[Path]:
    """Lock the folder of a run: a new one with `record` in it, or the one to resume.

    A new one without a name is the first of checkpoints/<preset>, checkpoints/<preset>-2, ... that
    does not exist. Of several processes the main one opens it; the others only get its name.

    Raises:
        ConfigError: it holds files already.
        LoraScratchError: it can't be created, or another process writes to it.
    """
    if not is_main():
        yield Path(os.fsdecode(broadcast(b"")))
        return
    folder = _create(Path(options.resume or options.output_dir or _numbered(options.preset or "run")))
    check_no_links(folder)
    with sole_writer(folder):
        if not (options.resume and (folder / CONFIG).exists()):
            check_free(folder)
            write_json(folder / CONFIG, sealed(record, seal=SEAL))
        remove_leftovers(folder)
        broadcast(os.fsencode(folder))
        try:
            yield folder
        except Interrupted as stop:
            raise Interrupted(f"{stop}; go on with --resume {folder}", signal_number=stop.signal_number) from None


def check_free(folder: Path, *, flag: str = OUTPUT_DIR) -> Path:
    """Return `folder` if it is absent or empty, and can be written to or created.

    Raises:
        ConfigError: it holds files, is a file, may not be written to, or the path is impossible.
    """
    typed_path(folder, flag=flag, written=True)
    if flag != OUTPUT_DIR and is_nameless(folder):  # a run's own folder is filled, others are renamed to
        raise ConfigError(NAMELESS, where=f"{flag} {folder}", expected="a new folder", remedy=NAME_ONE)
    try:
        str(folder).encode()  # the tokenizer and safetensors can write nowhere else
        taken = os.path.lexists(folder) and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir()))
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"can't be used ({reason})", where=f"{flag} {folder}", remedy="choose another") from error
    if taken:
        goes_on = f"go on with --resume {folder}, or " if (folder / CONFIG).exists() and flag == OUTPUT_DIR else ""
        raise ConfigError(
            "holds files already", where=f"{flag} {folder}", remedy=f"{goes_on}choose a new folder, or remove this one"
        )
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not os.access(there, os.W_OK | os.X_OK):  # false for root too where the disk is mounted read-only
        raise ConfigError("can't be used (no permission to write)", where=f"{flag} {folder}", remedy="choose another")
    return folder


def check_no_links(folder: Path) -> None:
    """Check that nothing of the run leads out of its folder.

    Raises:
        LoraScratchError: a file or folder in it is a symbolic link.
    """
    with file_errors(folder, "can't be read"):
        for path in (*folder.iterdir(), *folder.glob("state/*")):
            if path.is_symlink():
                remedy = "put what it leads to in its place, or remove it"
                raise LoraScratchError("is a symbolic link", where=str(path), expected="a file or folder", remedy=remedy)


def _numbered(job: str) -> Path:
    number = 1
    while (folder := Path("checkpoints") / (job if number == 1 else f"{job}-{number}")).exists():
        number += 1
    return folder


def check_file(path: str | None, *, flag: str = "--json", new: bool = False) -> None:
    """Check before the work that its result can be written to the file `path`, if one is named.

    Args:
        new: nothing may exist there yet.

    Raises:
        ConfigError: it is a folder, a device, a link to nothing or an impossible path.
    """
    if path is None:
        return
    try:
        mode = os.stat(typed_path(path, flag=flag, written=True)).st_mode
    except FileNotFoundError:
        _check_no_dangling_link(Path(path), flag=flag)
        return
    if new:
        raise ConfigError("is there already", where=f"{flag} {path}", remedy="choose another, or remove this one")
    if not stat.S_ISREG(mode):
        raise ConfigError("is no regular file", where=f"{flag} {path}", expected="a file, or nothing yet")


def _check_no_dangling_link(path: Path, *, flag: str) -> None:
    """Raise ConfigError if the path, where nothing is, is a symbolic link or leads through one: it would be replaced."""
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            expected, remedy = "a file, or nothing yet", f"name the file that {place} leads to, or remove the link"
            raise ConfigError("is a symbolic link to nothing", where=f"{flag} {path}", expected=expected, remedy=remedy)


def _create(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraScratchError(
            f"could not be created ({error.strerror})", where=f"--output_dir {folder}", remedy="choose another folder"
        ) from error
    return folder
