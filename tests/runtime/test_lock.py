"""lora_scratch/runtime/lock.py: one folder, one writer."""

import os
import signal
import subprocess
import sys

import pytest

from lora_scratch.errors import LoraScratchError
from lora_scratch.runtime.lock import sole_writer

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
