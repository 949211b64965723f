"""A file is written beside its place, flushed and renamed: it is whole or it is absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ..errors import LoraScratchError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        LoraScratchError: the disk is full, the folder is read-only, or the like; the old file is untouched.
    """
    path = Path(path)
    _check_regular(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise LoraScratchError(
            f"could not be written ({error.strerror})",
            where=str(path),
            remedy="free some space or choose another folder",
        ) from error
    finally:  # also after Ctrl-C
        with suppress(OSError):
            beside.unlink()


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text; a lone surrogate, which a file name may hold, is written as an escape."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for JSON: sorted keys, two spaces, no NaN (JSON has none)."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _check_regular(path: Path) -> None:
    """Renamed onto /dev/null, a file would take its place for everyone."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise LoraScratchError("could not be written (no regular file)", where=str(path), expected="a file, or nothing yet")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        LoraScratchError: it is not there, no regular file, or no JSON.
    """
    try:
        if not os.path.isfile(path) and os.path.exists(path):  # a pipe would be waited on for ever
            raise LoraScratchError("is no regular file", where=str(path))
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise LoraScratchError(f"can't be read ({error.strerror})", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise LoraScratchError(f"not valid JSON ({error})", where=str(path), remedy="remove it, or put it right") from error


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Yield a UTF-8 text file that becomes `path` when the block ends well; after an exception nothing is left of it.

    For content of any size, which is written as it comes.

    Raises:
        LoraScratchError: as for `write_bytes`; a file that was at `path` is untouched.
    """
    path = Path(path)
    _check_regular(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise LoraScratchError(
            f"could not be written ({error.strerror})",
            where=str(path),
            remedy="free some space or choose another folder",
        ) from error
    finally:  # also after Ctrl-C
        with suppress(OSError):
            beside.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends well; after an exception nothing is left.

    An existing folder at `path` is replaced in two renames, so it is the old one or the new one, never a mixture.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise LoraScratchError("is a file", where=str(path), expected="a folder, or nothing yet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        beside.chmod(0o755)  # mkdtemp makes a private folder; a result is to be shared
    except OSError as error:
        raise LoraScratchError(
            f"could not be created ({error.strerror})", where=str(path), remedy="choose another folder"
        ) from error
    try:
        yield beside
        _flush_folder(beside)
        _swap(beside, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise LoraScratchError(
            f"could not be written ({error.strerror})",
            where=str(path),
            remedy="free some space or choose another folder",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a reader sees all of it or nothing; one that is gone already is fine.

    Raises:
        LoraScratchError: it can't be removed.
    """
    gone = Path(path).with_name(f".{Path(path).name}.gone")
    try:
        shutil.rmtree(gone, ignore_errors=True)  # what an earlier removal did not finish
        with suppress(FileNotFoundError):
            os.replace(path, gone)
            shutil.rmtree(gone)
    except OSError as error:
        raise LoraScratchError(f"could not be removed ({error.strerror})", where=str(path)) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed in the middle of a write left beside the places in `folder`.

    Only for a folder that no other process writes to.
    """
    for path in folder.glob(".*.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".part":
            with suppress(OSError):
                path.unlink()


def _flush_folder(folder: Path) -> None:
    """A renamed file survives a power cut once the folder that names it is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't, and say so
            raise
    finally:
        os.close(descriptor)


def _swap(new: Path, place: Path) -> None:
    old = new.with_name(new.name + ".old")
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(new, place)
    except OSError:
        if old.exists():
            os.replace(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)
