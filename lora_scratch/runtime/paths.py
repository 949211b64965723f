"""Check that the operating system can use a path that a user typed, before any work.

For impossible paths, pathlib's exists, is_file and is_dir raise OSError or ValueError on Python
3.11 and return False on later versions. The functions below behave the same on all.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError

CONTENTS = ("x" * 30,) * 6  # as long as the paths that a run writes into a folder
SUFFIX_BYTES = 14  # that atomic.py adds to a name: a dot, then .<process>.part or .<8 letters>.old
SHOWN = 120  # characters of a path in a message
EXPECTED = {
    errno.ENAMETOOLONG: "a shorter path",
    errno.ELOOP: "symbolic links that end somewhere",
    errno.EACCES: "a place that this user may look into",
    errno.ENOTDIR: "a folder before every slash",
}


class PathFault(NamedTuple):
    """Two clauses of an error: why a path can't be used, and what is expected."""

    found: str
    expected: str


def typed_path(path: str | Path, *, flag: str, written: bool = False, or_hub: bool = False) -> Path:
    """Return the path that a user gave to `flag`, if the operating system can use it.

    Args:
        written: the program makes this file or folder, first under a longer name.
        or_hub: a path or a name on the hub: a file `owner` does not matter for `owner/name`.

    Raises:
        ConfigError: it can't.
    """
    if fault := path_fault(path, written=written, or_hub=or_hub):
        where, remedy = f"{flag} {shown_path(path)}", "choose another"
        raise ConfigError(fault.found, where=where, expected=fault.expected, remedy=remedy)
    return Path(path)


def path_fault(path: str | Path, *, written: bool = False, or_hub: bool = False) -> PathFault | None:
    """Return why the operating system can't use the path; None if it can. It need not exist."""
    name = os.fspath(path)
    if "\0" in name:
        return PathFault("can't be used (NUL character)", "a path without it")
    is_hub_name = or_hub and name.count("/") == 1 and name[0] not in "./~"
    try:
        _look(name, in_a_file=is_hub_name)
        _look(os.path.join(name, *CONTENTS), in_a_file=True)
        if written:
            _look(str(Path(name)) + "x" * SUFFIX_BYTES, in_a_file=True)
    except UnicodeEncodeError:
        problem = "can't be used (a character that no file name can have here)"
        return PathFault(problem, "a path without it")
    except OSError as error:
        expected = EXPECTED.get(error.errno or 0, "a path that the operating system takes")
        return PathFault(f"can't be used ({error.strerror})", expected)
    return None


def shown_path(path: str | Path) -> str:
    """Return the path for a message. A long one is cut in the middle."""
    name = os.fspath(path)
    return name if len(name) <= SHOWN else f"{name[: SHOWN // 2]}[...]{name[-SHOWN // 2 :]}"


def _look(name: str, *, in_a_file: bool) -> None:
    """Raise the system's error, unless it is that nothing exists (`in_a_file`: or could exist)."""
    try:
        os.stat(name)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        if not in_a_file:
            raise
