"""lora_scratch/runtime/lock.py: one folder, one writer."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lora_scratch.errors import LoraScratchError
from lora_scratch.runtime.lock import one_builder, sole_writer

HOLD = """
import sys, pathlib
from lora_scratch.runtime.lock import sole_writer
with sole_writer(pathlib.Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


def enter(folder):
    with sole_writer(folder):
        return True


def test_a_second_writer_is_told_who_the_first_one_is(tmp_path):
    """Also in one process; after the first has left, the way is free."""
    with sole_writer(tmp_path), pytest.raises(LoraScratchError, match=f"process {os.getpid()} is writing to it; wait"):
        enter(tmp_path)
    assert enter(tmp_path)


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    """SIGKILL leaves no time to clean up, and none is needed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "inside\n"
        with pytest.raises(LoraScratchError, match=f"process {holder.pid} is writing to it"):
            enter(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert enter(tmp_path)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    """Removed underneath."""
    with pytest.raises(LoraScratchError, match=r"gone: can't be written to \(No such file or directory\)"):
        enter(tmp_path / "gone")


def test_what_is_built_once_is_built_by_one_and_found_by_the_others(tmp_path):
    """Four at once: one builds, three wait and look again."""
    built = []

    def build(number):
        with one_builder(tmp_path / "model", remedy=""):
            if not (tmp_path / "model").exists():
                (tmp_path / "model").mkdir()
                built.append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(4)))
    assert len(built) == 1


def test_a_place_that_can_not_be_written_to_is_found_before_the_build(tmp_path):
    """The message says how to choose another."""
    (tmp_path / "file").touch()
    place, remedy = tmp_path / "file" / "x", "set XDG_CACHE_HOME"
    with pytest.raises(LoraScratchError, match=remedy), one_builder(place, remedy=remedy):
        pass


def test_a_lock_that_can_not_be_written_is_one_line(tmp_path, monkeypatch):
    """The file is closed without a second error."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LoraScratchError, match=r"could not be written \(No space left on device\); free some space"):
        enter(tmp_path)
