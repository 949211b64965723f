"""One folder, one writer: a lock that dies with its process, however the process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LoraScratchError

LOCK = ".lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Inside, no other process is inside for the same folder. The lock is the kernel's, so a killed process holds none.

    Raises:
        LoraScratchError: another process is inside, or the folder can't be written to.
    """
    path = Path(folder) / LOCK
    try:
        file = open(path, "a+")  # noqa: SIM115 - closed below, after the block
    except OSError as error:
        raise LoraScratchError(
            f"can't be written to ({error.strerror})", where=str(folder), remedy="choose another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise LoraScratchError(
                f"process {file.read().strip() or 'unknown'} is writing to it",
                where=str(folder),
                remedy="wait for its end, or stop it first",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
