"""Files and folders that are complete or absent: written under another name, flushed, renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from ..errors import LoraScratchError
from .json_text import MOST_BYTES, MOST_VALUES, parse_json

NOT_WRITTEN, FREE_SPACE = "could not be written", "free some space or choose another folder"
NAMELESS, NAME_ONE = "is a folder without a name of its own", "name a folder inside it"
MARK = ".lora-scratch-"  # in the name of every temporary file and folder, so that no other is ever removed
TEMPORARY = re.compile(rf"\.([^/]+){re.escape(MARK)}[0-9a-f]{{8}}(?=/|$)")  # a folder that is being written
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers raise types of their own for a full disk


@contextmanager
def file_errors(path: Path, problem: str, remedy: str = "") -> Iterator[None]:
    """Turn a system error inside into a LoraScratchError: `path: problem (reason); remedy`.

    A path in a folder that is being written is named as it would have been called in the end.
    """
    try:
        yield
    except LoraScratchError:
        raise
    except Exception as error:
        reason = _system_reason(error)
        if reason is None:
            raise
        where = TEMPORARY.sub(r"\1", str(path))
        raise LoraScratchError(f"{problem} ({reason})", where=where, remedy=remedy) from error


def _system_reason(error: Exception) -> str | None:
    """Return why the operating system refused; None if the error is of another kind."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    number = RUST_ERROR.search(str(error))
    return os.strerror(int(number[1])) if number else None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`. A reader sees the old file or the new one, never a part.

    Raises:
        LoraScratchError: for example a full disk or a read-only folder; the old file is untouched.
    """
    with _new_file(Path(path), "wb") as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text as `write_bytes` does. Lone surrogates, from file names, become escapes."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_bytes` does: sorted keys, two spaces, no NaN (JSON has none)."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, *, most_bytes: int = MOST_BYTES, most_values: int = MOST_VALUES) -> Any:
    """Read a JSON file (json_text.py).

    Raises:
        LoraScratchError: it does not exist, is no regular file, is no JSON, or is not within the bounds.
    """
    where = str(path)
    if not os.path.isfile(path) and os.path.exists(path):  # reading a pipe would never end
        raise LoraScratchError("is no regular file", where=where)
    try:
        with file_errors(path, "can't be read"), open(path, "rb") as file:
            content = file.read(min(os.fstat(file.fileno()).st_size, most_bytes + 1))
        return parse_json(content, most_bytes=most_bytes, most_values=most_values)
    except ValueError as error:
        remedy = "remove it, or put it right"
        raise LoraScratchError(f"not valid JSON ({error})", where=where, remedy=remedy) from error


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Yield a UTF-8 text file that becomes `path` if the block succeeds, and is removed if not.

    Raises:
        LoraScratchError: as for `write_bytes`.
    """
    with _new_file(Path(path), "w", encoding="utf-8") as file:
        yield file


@contextmanager
def _new_file(path: Path, mode: str, encoding: str | None = None) -> Iterator[Any]:
    if os.path.exists(path) and not os.path.isfile(path):  # a rename would replace /dev/null
        problem, expected = f"{NOT_WRITTEN} (no regular file)", "a file, or nothing yet"
        raise LoraScratchError(problem, where=str(path), expected=expected)
    temporary = path.with_name(f".{path.name}{MARK}{os.getpid()}.part")
    with file_errors(path, NOT_WRITTEN, FREE_SPACE), _parents(path):
        try:
            with open(temporary, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _flush_folder(path.parent)
        finally:  # also after Ctrl-C
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` if the block succeeds, and is removed if not.

    A folder at `path` is replaced in two renames: a reader sees the old one or the new one.

    Raises:
        LoraScratchError: as for `write_bytes`, or there is a file at `path`.
    """
    path = Path(path)
    if path.is_symlink():  # a rename would replace the link, and its target would stay as it was
        remedy = "name the folder that it leads to"
        raise LoraScratchError("is a symbolic link", where=str(path), expected="a folder, or nothing yet", remedy=remedy)
    if is_nameless(path):
        raise LoraScratchError(NAMELESS, where=str(path), expected="a new folder", remedy=NAME_ONE)
    if os.path.exists(path) and not os.path.isdir(path):
        raise LoraScratchError("is a file", where=str(path), expected="a folder, or nothing yet")
    with file_errors(path, "could not be created", "choose another folder"), _parents(path):
        temporary = _temporary_folder(path)
        try:
            with file_errors(path, NOT_WRITTEN, FREE_SPACE):
                yield temporary
                _flush_tree(temporary)
                _swap(temporary, path)
                _flush_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_nameless(path: Path) -> bool:
    """Return whether nothing can be renamed to this path: `.`, `..` and `/` are folders that one is in."""
    return path.name in ("", "..")


def remove_folder(path: Path) -> None:
    """Remove a folder, if it exists. A reader sees all of it or nothing.

    Raises:
        LoraScratchError: it can't be removed.
    """
    gone = Path(path).with_name(f".{Path(path).name}{MARK}gone")
    with file_errors(path, "could not be removed"):
        shutil.rmtree(gone, ignore_errors=True)  # left by an earlier removal
        with suppress(FileNotFoundError):
            os.replace(path, gone)
            shutil.rmtree(gone)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in `folder`: those with our mark.

    No other process may write to the folder meanwhile. Links and files of others stay.
    """
    for path in folder.glob(f".*{MARK}*"):
        if path.is_symlink():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".part":
            with suppress(OSError):
                path.unlink()


def open_own(path: Path, mode: str, **how: Any) -> IO[Any]:
    """Open a file of ours that is written in place: not through a link to somewhere else.

    Raises:
        OSError: it is a symbolic link (ELOOP). LoraScratchError: it is no regular file, or has several names.
    """
    file = open(path, mode, opener=_without_links, **how)  # noqa: SIM115 - the caller closes it
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return file
    file.close()
    what = "has several names (hard links)" if found.st_nlink > 1 else "is no regular file"
    raise LoraScratchError(what, where=str(path), expected="a file of this run alone", remedy="put a copy in its place")


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _temporary_folder(path: Path) -> Path:
    """Make a folder beside `path`, with the rights that mkdir gives: umask and the setgid bit of its parent count."""
    while True:
        temporary = path.with_name(f".{path.name}{MARK}{secrets.token_hex(4)}")
        with suppress(FileExistsError):
            temporary.mkdir()
            return temporary


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the folders above `path`. Those that were not there are removed if the block fails and they are empty."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _flush_tree(folder: Path) -> None:
    """Flush all files in a folder, also those that other libraries wrote: some disks say only now that they are full."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_folder(Path(place))


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder: without that, a renamed file can be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't
            raise
    finally:
        os.close(descriptor)


def _swap(new: Path, path: Path) -> None:
    old = new.with_name(new.name + ".old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
