"""Whether the operating system can take a path that a user typed, asked before anything is read or written there.

pathlib's own questions (exists, is_file, is_dir) raise OSError for some of these paths on Python 3.11, ValueError for
others, and answer False on later Pythons. Here every Python gives the same answer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError

FOLDER_ROOM = ("x" * 30,) * 6  # bytes for what a folder holds: runs, checkpoints, the files of a tokenizer
SUFFIX_ROOM = 14  # bytes of what atomic.py puts around a name: a dot, then .<process>.part or .<8 letters>.old
SHOWN = 120  # characters of a path in a message
EXPECTED = {
    errno.ENAMETOOLONG: "a shorter path",
    errno.ELOOP: "symbolic links that end somewhere",
    errno.EACCES: "a place that this user may look into",
    errno.ENOTDIR: "a folder before every slash",
}


class PathFault(NamedTuple):
    """Why a path can't be used, and what would do, as the clauses of an error."""

    found: str
    expected: str


def typed_path(path: str | Path, *, flag: str, written: bool = False, or_hub: bool = False) -> Path:
    """Return the path that a user gave to `flag`, if the operating system can take it.

    Args:
        written: the program makes this file or folder, and first something beside it with a longer name.
        or_hub: the value is a path or a name on the hub; a file called `owner` is no obstacle to `owner/name`.

    Raises:
        ConfigError: it can't.
    """
    fault = path_fault(path, written=written, or_hub=or_hub)
    if fault:
        raise ConfigError(fault.found, where=f"{flag} {shown_path(path)}", expected=fault.expected, remedy="choose another")
    return Path(path)


def path_fault(path: str | Path, *, written: bool = False, or_hub: bool = False) -> PathFault | None:
    """Return why the operating system can't take the path; None if it can, whether anything is there or not."""
    name = os.fspath(path)
    if "\0" in name:
        return PathFault("can't be used (NUL character)", "a path without it")
    is_hub_name = or_hub and name.count("/") == 1 and name[0] not in "./~"
    try:
        _look(name, in_a_file=is_hub_name)
        for longer in _longer_paths(name, written=written):
            _look(longer, in_a_file=True)
    except UnicodeEncodeError:
        return PathFault("can't be used (a character that no file name can have here)", "a path without it")
    except OSError as error:
        expected = EXPECTED.get(error.errno or 0, "a path that the operating system takes")
        return PathFault(f"can't be used ({error.strerror})", expected)
    return None


def shown_path(path: str | Path) -> str:
    """Return the path for a message; of a very long one the two ends."""
    name = os.fspath(path)
    return name if len(name) <= SHOWN else f"{name[: SHOWN // 2]}[...]{name[-SHOWN // 2 :]}"


def _longer_paths(name: str, *, written: bool) -> Iterator[str]:
    yield os.path.join(name, *FOLDER_ROOM)
    if written:
        yield str(Path(name)) + "x" * SUFFIX_ROOM


def _look(name: str, *, in_a_file: bool) -> None:
    """Raise the error of the operating system, unless it is that nothing is there; `in_a_file`: or could be there."""
    try:
        os.stat(name)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        if not in_a_file:
            raise
