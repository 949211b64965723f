"""A run that is killed again and again, at any moment, ends in the adapter of the run that was not.

    pytest -m torture tests/torture/test_kills.py -s        25 kills for each precision, on the demo
    LORA_SCRATCH_BASE=path/to/minilm pytest -m torture tests/torture/test_kills.py -s           and on that encoder
    LORA_SCRATCH_BASE=... LORA_SCRATCH_ROWS=path/to/emotion pytest -m torture ... -s            with rows of that data set

A kill is SIGKILL: by the clock, at a random moment of the training, or from inside, at a random system call of a save. Each
run is a process of its own, forked from this one, which has the libraries loaded already.
"""

import json
import os
import random
import select
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sklearn.metrics  # noqa: F401  (else every child would import it)
from support.command_line import call
from support.folders import save_base, save_rows
from support.pictures import quick_pictures

from lora_scratch.commands import train
from lora_scratch.training import Checkpoints
from lora_scratch.training.checkpoint import read_state

KILLS = 25
CALLS = ("fsync", "replace", "mkdir", "open", "unlink", "rmdir")  # what a save asks of the system, one by one
ENCODER, ROWS = os.environ.get("LORA_SCRATCH_BASE", ""), os.environ.get("LORA_SCRATCH_ROWS", "demo")


@dataclass
class Tally:
    """What a chain of kills came to."""

    by_clock: int = 0
    in_save: int = 0
    finished: int = 0
    checkpoints_read: int = 0
    resumed_from: list[int] = field(default_factory=list)


def fork(arguments, run, *, kill_at_call=None):
    """Start train.py in a child. Its process id, and a pipe that says when training starts and ends with the child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        announce(writer, kill_at_call)
        place = ["--resume", run] if (run / "config.json").exists() else ["--output_dir", run]
        os._exit(call(train, *arguments, *place))
    finally:
        os._exit(99)


def announce(writer, kill_at_call):
    """In the child: training begins with a byte in the pipe; from then on calls are counted, and one of them is the last."""
    real = train.train

    def training(*positional, **options):
        os.write(writer, b"x")
        if kill_at_call is not None:
            count_down(kill_at_call)
        return real(*positional, **options)

    train.train = training


def count_down(left):
    calls = [left]

    def counted(real):
        def called(*arguments, **options):
            calls[0] -= 1
            if calls[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return called

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def wait(child, reader, *, kill_after_s=None):
    """Wait for the child's end, or kill it so long after its training began. Its exit status, and how long it trained."""
    os.read(reader, 1)
    start = time.perf_counter()
    if kill_after_s is not None and not select.select([reader], [], [], kill_after_s)[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reader)
    return status, time.perf_counter() - start


def whole_run(arguments, run):
    """The run that nobody kills: its result, and how long it trained."""
    status, seconds = wait(*fork(arguments, run))
    assert status == 0
    return result(run), seconds


def result(run):
    """The bytes of the adapter, and the log without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [{name: value for name, value in line.items() if name not in ("tokens_per_second", "seconds")} for line in lines]
    files = ("adapter_model.safetensors", "adapter_config.json")
    return {name: (run / "adapter" / name).read_bytes() for name in files}, told


def torture(arguments, *, kills, seed, place):
    """Kill and resume until there have been so many kills; every run that reaches its end is the whole one."""
    rng, tally = random.Random(seed), Tally()  # noqa: S311
    expected, seconds = whole_run(arguments, place / "whole")
    saves = len(Checkpoints(place / "whole" / "state").steps())
    assert saves
    while tally.by_clock + tally.in_save < kills:
        run = place / f"run-{tally.finished}"
        while True:
            left = kills - tally.by_clock - tally.in_save
            by_clock = rng.random() < 0.5
            if left <= 0:
                status, _ = wait(*fork(arguments, run))
            elif by_clock:
                status, _ = wait(*fork(arguments, run), kill_after_s=rng.uniform(0, seconds))
            else:
                status, _ = wait(*fork(arguments, run, kill_at_call=rng.randrange(150)))
            tally.checkpoints_read += check_checkpoints(run)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            tally.by_clock += by_clock
            tally.in_save += not by_clock
            tally.resumed_from.append(max(Checkpoints(run / "state").steps(), default=0))
        assert result(run) == expected
        tally.finished += 1
    return tally


def check_checkpoints(run):
    """Every checkpoint that is there can be read, whatever happened a moment ago."""
    checkpoints = Checkpoints(run / "state")
    return len([read_state(checkpoints.path(step)) for step in checkpoints.steps()])


HARD = ["--dropout", 0.1, "--batch_size", 8, "--accumulation_steps", 2, "--save_steps", 3, "--keep", 2, "--threads", 1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_run_ends_in_the_adapter_of_the_whole_one(tmp_path):
    """The sample of the torture below that runs with the ordinary suite."""
    base, data = save_base(tmp_path / "base", labels=("negative", "positive")), save_rows(tmp_path / "data")
    small = [
        "--model",
        base,
        "--dataset",
        data,
        "--epochs",
        2,
        "--learning_rate",
        1e-2,
        "--max_tokens",
        32,
        "--precision",
        "fp32",
    ]
    with quick_pictures():
        tally = torture([*small, *HARD], kills=3, seed=1, place=tmp_path)
    assert tally.by_clock + tally.in_save == 3


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("base", "data", "rows"),
    [
        ("demo", "demo", 640),
        pytest.param(ENCODER, ROWS, 96, marks=pytest.mark.skipif(not ENCODER, reason="no LORA_SCRATCH_BASE")),
    ],
)
def test_every_run_that_is_killed_at_random_moments_ends_in_the_same_bytes(base, data, rows, precision):
    """25 kills: dropout, accumulation and shuffling on; no checkpoint that can't be read."""
    limits = ["--limit_train", rows, "--limit_eval", 48]
    work = ["--model", base, "--dataset", data, "--epochs", 2, *limits, "--precision", precision]
    with tempfile.TemporaryDirectory() as place:
        tally = torture([*work, *HARD], kills=KILLS, seed=7, place=Path(place))
    print(f"\n{base}, {data}, {precision}: {tally}")
    assert tally.by_clock + tally.in_save == KILLS
