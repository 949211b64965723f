"""Locks: one process writes to a folder, and one builds what others wait for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LoraScratchError
from .atomic import FREE_SPACE, NOT_WRITTEN, file_errors, open_own

LOCK = ".lock"


@contextmanager
def one_builder(path: Path, *, remedy: str) -> Iterator[None]:
    """Lock the making of `path` inside; other processes wait here. The place is known to be writable inside.

    Raises:
        LoraScratchError: nothing can be written beside `path`.
    """
    path = Path(path)
    with file_errors(path.parent, "can't be written to", remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_own(path.parent / f".{path.name}{LOCK}", "a")
    with file:
        with file_errors(path.parent, "can't be locked", remedy):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a folder inside. The kernel frees the lock when the process ends, even if it is killed.

    Raises:
        LoraScratchError: another process holds the lock, or the folder can't be written to.
    """
    with file_errors(folder, "can't be written to", "choose another folder"):
        file = open_own(Path(folder) / LOCK, "a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            problem = f"process {file.read().strip() or 'unknown'} is writing to it"
            remedy = "wait for its end, or stop it first"
            raise LoraScratchError(problem, where=str(folder), remedy=remedy) from error
        with file_errors(folder, NOT_WRITTEN, FREE_SPACE):
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())  # past the buffer, which would be flushed again on closing
        yield
