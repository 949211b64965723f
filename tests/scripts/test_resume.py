"""train.py --resume: the same run, the same bits, or one line that says why not; and what faults leave behind."""

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from support.command_line import call, train_arguments

from lora_scratch.commands import train
from lora_scratch.runtime import atomic
from lora_scratch.runtime.lock import LOCK, sole_writer
from lora_scratch.training import Checkpoints, loop


@pytest.fixture
def arguments(job, tmp_path):
    """A run of 2 epochs of 4 steps, in a folder that is not there yet."""
    return [*train_arguments(job.base, job.data, tmp_path / "run"), "--save_steps", 3]


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "interrupted"))]
    assert len(lines) == 1
    return lines[0]


def stop(monkeypatch, *, at_step, how):
    """In the step of this number, `how` happens."""
    real = loop.Stepper.launch

    def step(stepper, batches, **options):
        if stepper.step + 1 == at_step:
            how()
        return real(stepper, batches, **options)

    monkeypatch.setattr(loop.Stepper, "launch", step)


def die():
    raise SystemExit(9)  # past every handler of ours, as a kill would


def adapter_bytes(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("at_step", [2, 5, 8], ids=lambda n: f"in step {n}")
def test_a_run_that_died_is_finished_by_resume_with_the_same_adapter(job, arguments, tmp_path, monkeypatch, capsys, at_step):
    """Before the first checkpoint, between two, in the last step; adapter, log and provenance are those of one run."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, at_step=at_step, how=die)
        assert call(train, *arguments) == 9
    assert call(train, "--resume", run) == 0
    told = "no checkpoint yet, so from the beginning" if at_step < 4 else f"goes on after step {(at_step - 1) // 3 * 3}"
    assert told in capsys.readouterr().out
    assert adapter_bytes(run) == adapter_bytes(job.run)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    notes = json.loads((run / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    assert "--output_dir" in notes["command"]
    assert "--resume" not in notes["command"]


def test_resuming_a_finished_run_says_so_and_changes_nothing(job, capsys):
    """Exit 0; with another flag than the run was started with it is refused, as any run is."""
    before = {path: path.stat().st_mtime_ns for path in job.run.rglob("*")}
    assert call(train, "--resume", job.run) == 0
    assert "is finished" in capsys.readouterr().out
    assert call(train, "--resume", job.run, "--epochs", 9) == 1
    assert "--epochs is 9, in the run" in one_line(capsys)
    assert {path: path.stat().st_mtime_ns for path in job.run.rglob("*")} == before


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--learning_rate", 0.02], "--learning_rate is 0.02, in the run 0.01"),
        (["--rank", 8], "--rank is 8, in the run 4"),
        (["--batch_size", 8, "--seed", 3], "--batch_size is 8, in the run 16; --seed is 3, in the run 0"),
        (["--precision", "bf16"], "--precision is 'bf16', in the run 'fp32'"),
        (["--plain", "True"], "--plain is True, in the run False"),
        (["--limit_eval", 8], "data.limit_eval is 8, in the run None"),
    ],
    ids=str,
)
def test_flags_that_would_change_the_mathematics_are_refused_by_name(arguments, tmp_path, monkeypatch, capsys, flags, found):
    """All of them, with both values; the run is left as it was."""
    with monkeypatch.context() as patch:
        stop(patch, at_step=5, how=die)
        call(train, *arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert call(train, "--resume", tmp_path / "run", *flags) == 1
    line = one_line(capsys)
    assert found in line
    assert "leave these flags out, or start a new run" in line
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_other_rows_under_the_same_name_are_refused(job, arguments, tmp_path, monkeypatch, capsys):
    """By their digest: one word has changed."""
    data = shutil.copytree(job.data, tmp_path / "data")
    arguments[arguments.index("--dataset") + 1] = data
    with monkeypatch.context() as patch:
        stop(patch, at_step=5, how=die)
        call(train, *arguments)
    text = (data / "train.txt").read_text(encoding="utf-8")
    (data / "train.txt").write_text(text.replace(" i ", " we ", 1))
    capsys.readouterr()
    assert call(train, "--resume", tmp_path / "run") == 1
    assert "the train rows are not those that the run was started with" in one_line(capsys)


def test_what_changes_no_number_may_differ_and_is_said(job, arguments, tmp_path, monkeypatch, capsys):
    """Threads, how often to save, and the same base and rows in another place."""
    with monkeypatch.context() as patch:
        stop(patch, at_step=5, how=die)
        call(train, *arguments)
    base, data = shutil.copytree(job.base, tmp_path / "base"), shutil.copytree(job.data, tmp_path / "data")
    moved = ["--model", base, "--dataset", data, "--threads", 1, "--save_steps", 2, "--max_skipped", 7]
    assert call(train, "--resume", tmp_path / "run", *moved) == 0
    said = capsys.readouterr().err
    for clause in ("resume: --threads is 1, in the run 0", "--save_steps is 2, in the run 3", "--max_skipped is 7"):
        assert clause in said
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(job.run)


def test_a_folder_without_a_run_is_named_with_the_way_to_start_one(arguments, tmp_path, capsys):
    """A typing error must not start another run; with --output_dir it is meant, and one command starts and goes on."""
    run = tmp_path / "run"
    assert call(train, "--resume", run) == 1
    assert f"no run was started here (there is no config.json); name another folder, or add --output_dir {run}" in one_line(
        capsys
    )
    assert call(train, *arguments, "--resume", tmp_path / "other") == 1
    assert "expected one folder" in one_line(capsys)
    assert not run.exists()
    assert call(train, *arguments, "--resume", run) == 0
    assert call(train, *arguments, "--resume", run) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_second_writer_of_a_run_is_refused(arguments, tmp_path, monkeypatch, capsys):
    """One run folder, one writer: the second ends in one line, the first goes on."""
    with monkeypatch.context() as patch:
        stop(patch, at_step=5, how=die)
        call(train, *arguments)
    capsys.readouterr()
    with sole_writer(tmp_path / "run"):
        assert call(train, "--resume", tmp_path / "run") == 1
    assert f"process {os.getpid()} is writing to it" in one_line(capsys)
    assert call(train, "--resume", tmp_path / "run") == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits_as_a_shell_expects(job, arguments, tmp_path, monkeypatch, capsys, number, code):
    """After the step; resume goes on from there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        stop(patch, at_step=2, how=lambda: os.kill(os.getpid(), number))
        assert call(train, *arguments) == code
    signal.signal(signal.SIGINT, before)
    goes_on = f"go on with --resume {tmp_path / 'run'}"
    assert f"interrupted: {number.name}, saved after step 2 of 8; {goes_on}" in one_line(capsys)
    assert call(train, *arguments) == 1
    assert f"{goes_on}, or choose a new folder" in one_line(capsys)
    assert call(train, "--resume", tmp_path / "run") == 0
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(job.run)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_leaves_adapter_and_checkpoints_whole(job, arguments, tmp_path, monkeypatch, capsys):
    """From step 5 on no byte reaches the disk; with some room again the run goes on."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, at_step=5, how=lambda: patch.setattr(atomic.os, "fsync", full))
        assert call(train, *arguments) == 1
    assert "metrics.jsonl: could not be flushed (No space left on device); free some space and resume" in one_line(capsys)
    assert Checkpoints(run / "state").steps() == [3]
    assert Checkpoints(run / "state").load() is not None
    assert json.loads((run / "adapter" / "provenance.json").read_text(encoding="utf-8"))["adapter_sha256"]
    assert call(train, "--resume", run) == 0
    assert adapter_bytes(run) == adapter_bytes(job.run)


def test_a_run_folder_removed_underneath_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    """And it does not come back half."""
    stop(monkeypatch, at_step=5, how=lambda: shutil.rmtree(tmp_path / "run"))
    assert call(train, *arguments) == 1
    assert "metrics.jsonl: could not be written (No such file or directory)" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_files_removed_underneath_do_no_harm_or_are_said(job, arguments, tmp_path, monkeypatch, capsys):
    """The adapter is written again at the end; lines of the log that are gone are said to be."""
    run = tmp_path / "run"

    def remove():
        shutil.rmtree(run / "adapter")
        die()

    with monkeypatch.context() as patch:
        stop(patch, at_step=8, how=remove)
        call(train, *arguments)
    (run / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: [\d,]+ bytes of earlier lines are gone"):
        assert call(train, "--resume", run) == 0
    assert adapter_bytes(run) == adapter_bytes(job.run)


def test_two_runs_started_in_one_new_folder_at_once_are_one_run_and_one_line(arguments, tmp_path, capsys):
    """The first has the lock and has not written yet; the second leaves the folder as it is."""
    run = tmp_path / "run"
    run.mkdir()
    with sole_writer(run):
        assert call(train, *arguments) == 1
        assert [path.name for path in run.iterdir()] == [LOCK]
    assert f"process {os.getpid()} is writing to it" in one_line(capsys)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES], ids=os.strerror)
def test_a_run_folder_that_may_not_be_written_to_is_one_line(arguments, tmp_path, monkeypatch, capsys, number):
    """Root may write anywhere, so the refusal is the system call's (tests/scripts/test_disks.py has a real one)."""
    real = open

    def read_only(path, mode="r", *more, **options):
        if set(mode) & set("aw+") and str(path).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number))
        return real(path, mode, *more, **options)

    monkeypatch.setattr("builtins.open", read_only)
    assert call(train, *arguments) == 1
    assert f"run: can't be written to ({os.strerror(number)}); choose another folder" in one_line(capsys)


def test_gradients_that_stay_infinite_stop_the_run_and_leave_the_best_adapter(arguments, tmp_path, monkeypatch, capsys):
    """Step and rows are named; the adapter of epoch 1 is as it was saved."""
    run, kept, real = tmp_path / "run", [], torch.nn.functional.cross_entropy

    def break_loss():
        if not kept:
            kept.append(adapter_bytes(run))
        monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *a, **k: real(*a, **k) * torch.nan)

    stop(monkeypatch, at_step=5, how=break_loss)
    assert call(train, *arguments, "--max_skipped", 3) == 1
    assert "step 7: loss or gradient was not finite 3 steps in a row, last on rows [" in one_line(capsys)
    assert adapter_bytes(run) == kept[0]
    assert [
        json.loads(line)["skipped"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-2:]
    ] == [1, 2]
