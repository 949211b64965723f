"""Commands on disks that are full, read-only or become so: one line, and what was whole stays whole."""

import contextlib
import io
import json
import os
import sys

import pytest
from support.command_line import call, train_arguments
from support.disks import on_a_disk, remount

from lora_scratch.commands import export, predict, train
from lora_scratch.runs import run_command
from lora_scratch.runs.streams import READER_GONE
from lora_scratch.serialization.verify import problems_in_folder
from lora_scratch.training import Checkpoints, loop
from lora_scratch.training.checkpoint import read_state

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
STEP = loop.Stepper.launch
LARGE = ["--rank", 32, "--dropout", 0.1]  # of a state, 0.3 MB
OFTEN = ["--save_steps", 1, "--keep", 100]


def tell(*arguments, script=train):
    """The exit code of a script, and the lines with its errors."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = call(script, *arguments)
    return code, [line for line in said.getvalue().splitlines() if line.startswith("error")]


def result(run):
    """The bytes of the adapter, and the losses of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return (run / "adapter" / "adapter_model.safetensors").read_bytes(), [line["loss"] for line in lines]


def whole_checkpoints(run):
    """How many there are; each of them can be read, and nothing half stands beside them."""
    checkpoints = Checkpoints(run / "state")
    assert {path.name for path in checkpoints.folder.iterdir()} == {
        checkpoints.path(step).name for step in checkpoints.steps()
    }
    return len([read_state(checkpoints.path(step)) for step in checkpoints.steps()])


def fill(disk, job):
    """A run that wants to keep more than there is room for; then there is room."""
    first = tell(*train_arguments(job.base, job.data, disk / "run"), *LARGE, *OFTEN)
    kept, problems = whole_checkpoints(disk / "run"), problems_in_folder(disk / "run" / "adapter")
    second = tell("--resume", disk / "run")
    remount(disk, size="40m")
    return first, kept, problems, second, tell("--resume", disk / "run"), result(disk / "run")


def test_a_disk_with_one_megabyte_left_is_one_line_and_a_resume_with_room_ends_in_the_same_bytes(job, tmp_path):
    """Checkpoints and adapter that stood when the disk was full are whole; so they are after a resume without more room."""
    first, kept, problems, second, last, found = on_a_disk(tmp_path / "disk", fill, job, size="1m")
    for code, lines in (first, second):
        assert code == 1
        assert len(lines) == 1
        assert "(No space left on device); free some space" in lines[0]
    assert 2 <= kept < 8
    assert problems == []
    assert last == (0, [])
    assert tell(*train_arguments(job.base, job.data, tmp_path / "whole"), *LARGE) == (0, [])
    assert found == result(tmp_path / "whole")


def die_in_step_5(stepper, batches, **options):
    if stepper.step == 4:
        raise SystemExit(9)  # past every handler of ours, as a kill would
    return STEP(stepper, batches, **options)


def protect(disk, job):
    """A run that died, on a disk that is read-only then: a new run there, a resume, and the resume when it may write."""
    loop.Stepper.launch = die_in_step_5  # in this process, which ends with the test
    first = tell(*train_arguments(job.base, job.data, disk / "run"), "--save_steps", 3)
    loop.Stepper.launch = STEP
    remount(disk, size="40m", read_only=True)
    refused = [tell(*train_arguments(job.base, job.data, disk / "new")), tell("--resume", disk / "run")]
    kept, problems = whole_checkpoints(disk / "run"), problems_in_folder(disk / "run" / "adapter")
    remount(disk, size="40m")
    return first, refused, kept, problems, tell("--resume", disk / "run"), result(disk / "run")[0]


def test_a_read_only_disk_is_one_line_and_a_resume_ends_in_the_same_bytes_when_it_is_no_more(job, tmp_path):
    """At the start of a run, before any work, and where one is to go on; root is refused like anyone."""
    first, (new, resumed), kept, problems, last, found = on_a_disk(tmp_path / "disk", protect, job, size="40m")
    assert first == (9, [])
    assert new[0] == resumed[0] == 1
    assert new[1] == [f"error: --output_dir {tmp_path}/disk/new: can't be used (no permission to write); choose another"]
    assert resumed[1] == [f"error: {tmp_path}/disk/run: can't be written to (Read-only file system); choose another folder"]
    assert (kept, problems) == (1, [])
    assert last == (0, [])
    assert found == result(job.run)[0]


def write_models(disk, job):
    """A merged model, a split one and a whole one that was trained; what is left of them."""
    run = train_arguments(job.base, job.data, disk / "run")
    told = [tell(name, job.adapter, "--output", disk / name, script=export) for name in ("merge", "split")]
    told.append(tell(*run, "--trainable", "head", "--epochs", 1))
    return told, sorted(path.name for path in disk.iterdir()), sorted(path.name for path in (disk / "run").iterdir())


def test_models_that_do_not_fit_on_a_disk_are_one_line_and_leave_nothing(job, tmp_path):
    """safetensors raises a type of its own."""
    told, left, run = on_a_disk(tmp_path / "disk", write_models, job, size="60k")
    for (code, lines), place in zip(told, ("merge", "split", "run/model"), strict=True):
        assert code == 1
        line = f"error: {tmp_path}/disk/{place}: could not be written (No space left on device); "
        assert lines == [f"{line}free some space or choose another folder"]
    assert left == ["run"]
    assert run == [".lock", "config.json", "metrics.jsonl"]


def test_predict_stops_when_nobody_reads_its_answers(job, monkeypatch):
    """`predict | head` does not classify the rest of a million texts; exit code 141."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w", buffering=1))
    monkeypatch.setattr(sys, "argv", ["predict", str(job.adapter), "i am happy"])
    with pytest.raises(SystemExit) as stop:
        run_command(predict.main, needs_reader=predict.NEEDS_READER)
    assert (stop.value.code, predict.NEEDS_READER) == (READER_GONE, True)
