"""lora_scratch/runtime/garbage.py: no search for cycles while a command starts, the usual ones in its work."""

import gc
import subprocess
import sys

import pytest
from support.folders import save_base

from lora_scratch.runs import open_base
from lora_scratch.runtime import garbage

PROGRAM = """
import atexit, gc, sys
from lora_scratch.runs import open_base, run_command

usual = gc.get_threshold()
state = lambda: print(gc.get_threshold()[0], gc.get_threshold() == usual, gc.get_freeze_count() > 0)
atexit.register(state)  # called after what run_command registers

def main():
    state()
    for name in sys.argv[1:]:
        open_base(name)
        state()

run_command(main)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny classifier."""
    return save_base(tmp_path_factory.mktemp("base"), labels=("a", "b"))


def states(*names):
    """Of a command that opens these bases, in a process of its own: at its start, after each of them, and at its exit."""
    command = [sys.executable, "-c", PROGRAM, *map(str, names)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_command_searches_as_usual_once_its_base_is_open(base):
    """Before that rarely; after that never among what a base and its code have brought, however often one is opened."""
    usual = gc.get_threshold()[0]
    assert states(base, base) == [f"{garbage.OBJECTS} False False", *[f"{usual} True True"] * 3]


def test_a_command_without_a_base_leaves_the_last_search_out():
    """It has few objects of its own."""
    assert states() == [f"{garbage.OBJECTS} False False", f"{garbage.OBJECTS} False True"]


def test_a_library_changes_nothing_of_its_caller(base):
    """Garbage that the caller has now would stay for good."""
    before = gc.get_threshold(), gc.get_freeze_count()
    open_base(str(base))
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
