"""Damaged command lines of every command: exit code 0, 1 or 2, one line of error, no traceback, nothing left half done.

pytest -m torture tests/torture/test_command_lines.py -s       the counts by script
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pytest
from support.alarm import no_hang
from support.command_damage import KNOWN_GOOD_AND_LONG, Line, command_lines, damage_line, flags_of
from support.command_line import call, train_arguments
from support.damage import told
from support.folders import save_base, save_rows
from support.measuring import measured_here
from support.pictures import quick_pictures
from support.typed_flags import COMMANDS, command
from support.typed_flags import flags_of as flags_in

from lora_scratch.commands import train
from lora_scratch.commands.benchmarks import gpu_acceptance
from lora_scratch.commands.benchmarks.acceptance import runner
from lora_scratch.deploy import reload, run_exported
from lora_scratch.errors import LoraScratchError
from lora_scratch.runtime.atomic import MARK
from lora_scratch.study import sweep

SHORT, FULL = 40, 1000


LONG = {"play", "table2"}  # one serves until it is stopped, the other trains for hours


@dataclass(frozen=True)
class Desk:
    """What the commands work on, and a place where they write."""

    base: Path
    data: Path
    adapter: Path
    out: Path

    @property
    def places(self) -> list[Path]:
        """Paths that are there, each the wrong kind for most flags."""
        return [
            self.base,
            self.data,
            self.adapter,
            self.data / "train.txt",
            self.out.parent / "pipe",
            self.base / "config.json",
        ]

    def clear(self) -> Path:
        """An empty place to work in, so that a relative path leads nowhere else."""
        shutil.rmtree(self.out, ignore_errors=True)
        work = self.out / "work" / "here"
        work.mkdir(parents=True)
        return work

    def written(self) -> set[str]:
        """The files that are there now."""
        return {str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    """A base, rows, a trained adapter."""
    place = tmp_path_factory.mktemp("desk")
    base, data = save_base(place / "base", labels=("negative", "positive")), save_rows(place / "data")
    (place / "rows.jsonl").write_text(json.dumps({"text": "so it goes", "adapter": "one"}) + "\n")
    os.mkfifo(place / "pipe")
    assert call(train, *train_arguments(base, data, place / "run"), "--epochs", 1) == 0
    return Desk(base, data, place / "run" / "adapter", place / "out")


BAR = re.compile(r"\d+%\||(unit|batch|text|row|run|step|it|B)/s|[:,] \d+(text|row|it)")


def check_ending(code: int, error: str) -> None:
    """What a person sees on stderr: nothing but progress, or one line; with wrong usage argparse's usage before it."""
    lines = [line for line in re.split(r"[\r\n]", error) if line.strip() and not BAR.search(line)]
    assert code in (0, 1, 2), f"exit code {code}"
    assert "Traceback" not in error
    if code == 0:
        assert lines == [], f"words on stderr: {lines[:3]}"
    if code == 1:
        assert len(lines) == 1, f"{len(lines)} lines"
        assert lines[0].startswith("error: ")
        assert len(lines[0]) < 10_000
    if code == 2:
        assert lines[0].startswith("usage: ")
        assert sum(": error: " in line for line in lines) == 1


def check_place(desk: Desk, code: int) -> None:
    """No part of a file is left, and after an error nothing but a run that had started."""
    written = desk.written()
    parts = [name for name in written if MARK in name]
    assert parts == []
    if code:
        begun = [name.rpartition("/") for name in written]  # command.json: a comparison
        started = {folder for folder, _, name in begun if name in ("config.json", "command.json")}
        assert all(any(name.startswith(folder) for folder in started) for name in written), f"left behind: {written}"


def inputs(desk: Desk) -> dict[str, bytes]:
    """What no command may change."""
    return {str(path): path.read_bytes() for root in (desk.base, desk.data, desk.adapter) for path in root.rglob("*")}


def run_one(desk: Desk, script: str, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> int:
    """Run the command in an empty folder, with an empty standard input; its exit code."""
    monkeypatch.chdir(desk.clear())
    with no_hang(within_s=300), open(os.devnull) as nothing:  # 11 trainings of section7 on a busy machine
        monkeypatch.setattr("sys.stdin", nothing)
        code = call(command(script.split()[0]), *line)
    check_ending(code, capsys.readouterr().err)
    check_place(desk, code)
    return code


@pytest.fixture(autouse=True)
def in_process(monkeypatch, tmp_path):
    """compare.py and section7.py start a process for each run: here the run is made in this one, with its own output."""

    one_at_a_time = Lock()  # threads share sys.stdout: the last to put back the one it knew would leave a closed file

    def run_one(script: Path, place: Path, flags: Line, running: list[object]) -> None:
        with one_at_a_time, open(tmp_path / "log", "w+") as log, redirect_stdout(log), redirect_stderr(log):
            code = call(train, *flags, "--resume", place, "--output_dir", place)
            log.seek(0)
            if code:
                raise LoraScratchError(log.read().strip().splitlines()[-1], where="train.py")

    monkeypatch.setattr(sweep, "_train", run_one)


@pytest.fixture
def go(desk, monkeypatch, capsys):
    """Damage and run for every seed; the counts by script and exit code."""
    lines = command_lines(desk.base, desk.data, desk.adapter, desk.out)
    flags = {}
    for script in lines:
        assert call(command(script.split()[0]), "--help") == 0
        flags[script] = flags_of(capsys.readouterr().out)
    before = inputs(desk)

    def run(seeds: range, scripts: list[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        failures: list[str] = []
        for seed in seeds:
            script, rng = scripts[seed % len(scripts)], random.Random(seed)  # noqa: S311
            line = list(lines[script])
            what = damage_line(line, flags[script], desk.places, rng)
            try:
                counts[f"{script:<16} exit code {run_one(desk, script, line, monkeypatch, capsys)}"] += 1
                assert inputs(desk) == before, "the inputs have changed"
            except Exception as error:
                failures.append(f"{script}, seed {seed}: {what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:40]])
        return counts

    return run


def test_every_command_has_a_command_line_here_that_works(desk, monkeypatch, capsys):
    """A new command is a new row of `command_lines`; what is damaged below is whole to begin with."""
    lines = command_lines(desk.base, desk.data, desk.adapter, desk.out)
    assert {script.split()[0] for script in lines} == set(COMMANDS) - LONG
    monkeypatch.setattr(reload, "in_new_process", run_exported.answer)
    monkeypatch.setattr(runner, "in_a_process", measured_here(gpu_acceptance))
    with quick_pictures():
        for script, line in lines.items():
            assert run_one(desk, script, line, monkeypatch, capsys) == 0, script


def test_damaged_command_line_ends_in_one_line_in_a_short_sample(go):
    """The sample of the torture below that runs with the ordinary suite: the scripts that are quick to start."""
    go(range(SHORT), ["predict", "predict adapters", "export", "export split", "inspect", "combine"])


def test_several_trainings_at_a_time_leave_standard_output_as_it_was(desk, monkeypatch, capsys):
    """Else every command after them in this process would fail, and blame itself."""
    stdout, line = sys.stdout, command_lines(desk.base, desk.data, desk.adapter, desk.out)["compare"]
    with quick_pictures():
        assert run_one(desk, "compare", [*line, "1", "2", "--processes", "3"], monkeypatch, capsys) == 0
    assert sys.stdout is stdout


LARGE = [str(number) for number in (2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1)]


@pytest.mark.torture
@pytest.mark.parametrize("script", sorted(set(COMMANDS) - {"table2"}))
def test_a_very_large_number_ends_in_one_line(script, desk, monkeypatch, capsys):
    """Of every flag that takes a whole number: what fits 64 bits may fit no memory, and may be as good as any."""
    lines = {"play": [str(desk.adapter)], **command_lines(desk.base, desk.data, desk.adapter, desk.out)}
    line = lines[script]
    slow = KNOWN_GOOD_AND_LONG | ({"--steps"} if script == "benchmark" else {"--seeds"} if script == "section7" else set())
    flags = [flag for flag in flags_in(script) if flag.is_whole_number and flag.name not in slow]
    failures = []
    for flag in flags:
        for value in LARGE:
            try:
                run_one(desk, script, [*line, flag.name, value], monkeypatch, capsys)
            except Exception as error:
                failures.append(f"{flag} {value}: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")
    assert not failures, "\n".join(failures)


@pytest.mark.torture
def test_damaged_command_line_ends_in_one_line(go, capsys):
    """1,000 command lines of all scripts: exit code 0, 1 or 2; one line of error; no traceback, no part of a file."""
    counts = go(range(FULL), sorted(command_lines(*[Path()] * 4)))
    with capsys.disabled():
        print(told(counts))
