"""scripts/benchmarks/idle.py: whether a timing has the machine to itself."""

import pytest

from lora_scratch.commands.benchmarks import idle
from lora_scratch.commands.benchmarks.idle import Idleness, look


@pytest.mark.parametrize(
    ("share", "load", "free"), [(0.9, 9.0, True), (0.89, 0.0, False), (None, 0.0, True), (None, 99.0, False)]
)
def test_a_machine_is_idle_when_nine_tenths_of_its_time_are_unused(share, load, free):
    """The load average, which remembers the measure before, counts only where nothing else is known."""
    assert Idleness(share, load).idle is free


def test_look_reads_the_share_of_ticks_that_went_by_unused(tmp_path, monkeypatch):
    """Idle and waiting for a disk, of all: 30 + 10 of 80 here."""
    stat, readings = tmp_path / "stat", iter(["cpu 100 0 50 1000 20 0 0 0 0 0\n", "cpu 130 0 60 1030 30 0 0 0 0 0\n"])
    monkeypatch.setattr(idle, "STAT", stat)
    monkeypatch.setattr(type(stat), "read_text", lambda self, **_: next(readings))
    assert look(0).idle_share == pytest.approx(0.5)


def test_look_without_proc_knows_only_the_load(tmp_path, monkeypatch):
    """Another system."""
    monkeypatch.setattr(idle, "STAT", tmp_path / "absent")
    assert look(0).idle_share is None
