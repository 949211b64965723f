"""A real disk of a chosen size, in a process that sees mounts of its own: it is gone with the process.

Linux lets anyone have that in a user namespace, unless the machine forbids it: then the test is skipped.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER in sched.h
READ_ONLY, REMOUNT = 1, 32  # MS_RDONLY, MS_REMOUNT in sys/mount.h


class NotPermitted(Exception):
    """This machine gives no process mounts of its own."""


def on_a_disk(place: Path, work: Callable[..., Any], *arguments: Any, size: str) -> Any:
    """What `work(disk, *arguments)` returns, or raises, in a process of its own; `disk` is a file system of `size`."""
    place.mkdir()
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as child:
        try:
            return child.submit(_inside, place, work, arguments, size).result()
        except NotPermitted as error:
            pytest.skip(f"no mounts of one's own here: {error}")


def remount(disk: Path, *, size: str, read_only: bool = False) -> None:
    """Make the disk larger, or one that can't be written to."""
    _system("mount", b"tmpfs", os.fsencode(disk), b"tmpfs", REMOUNT | READ_ONLY * read_only, f"size={size}".encode())


def _inside(place: Path, work: Callable[..., Any], arguments: tuple[Any, ...], size: str) -> Any:
    user, group = os.getuid(), os.getgid()
    try:
        _system("unshare", NEW_USERS | NEW_MOUNTS)
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(line)
        _system("mount", b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode())
    except OSError as error:
        raise NotPermitted(error) from error
    return work(place, *arguments)


def _system(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
