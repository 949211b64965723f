"""lora_scratch/runs/command.py: how a command ends, and the line that records it."""

import io
import os
import re
import shlex
import signal
import sys
import warnings

import pytest

from lora_scratch import runs
from lora_scratch.errors import DataError
from lora_scratch.runs import command_line, restart_command, run_command
from lora_scratch.runtime.atomic import new_file
from lora_scratch.runtime.device import started_number


def terminal(monkeypatch):
    """A terminal without the letters of the world. (In the test itself: pytest puts its own in place after the fixtures.)"""
    found = {}
    for name in ("stdout", "stderr"):
        found[name] = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(found[name], encoding="ascii"))
    return found


def test_a_letter_that_the_terminal_has_not_is_an_escape(monkeypatch):
    """Results of an hour do not end in a UnicodeEncodeError."""
    found = terminal(monkeypatch)
    run_command(lambda: print("naïve 🙂 \udcff"))
    assert found["stdout"].getvalue() == b"na\\xefve \\U0001f642 \\udcff\n"


def test_an_error_of_the_project_is_one_line_and_exit_code_1(monkeypatch):
    """No traceback."""
    found = terminal(monkeypatch)

    def fail():
        raise DataError("naïve", where="a\nb")

    with pytest.raises(SystemExit) as stop:
        run_command(fail)
    sys.stderr.flush()
    assert stop.value.code == 1
    assert found["stderr"].getvalue() == b"error: a b: na\\xefve\n"


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "LOCAL_RANK"])
def test_an_environment_that_torchrun_did_not_make_is_one_line(variable, monkeypatch, capsys):
    """The number of processes is read again for the line itself."""
    monkeypatch.setenv(variable, "")
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: print(started_number(variable, default=1)), in_processes=True)
    assert stop.value.code == 1
    assert re.fullmatch(rf"error(?: in process 0)?: {variable} in the environment: is ''; .*\n", capsys.readouterr().err)


def test_any_other_error_is_a_defect_and_keeps_its_traceback():
    """It is not for the user to put right."""
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 / 0))


STARTS = [
    (["scripts/train.py", "--rank", "2"], "python scripts/train.py --rank 2", ["scripts/train.py"]),
    (["my scripts/train.py"], "python 'my scripts/train.py'", ["my scripts/train.py"]),
    (["lora-scratch train", "a b"], "lora-scratch train 'a b'", ["-m", "lora_scratch", "train"]),
    (["python -m lora_scratch train"], "python -m lora_scratch train", ["-m", "lora_scratch", "train"]),
    (
        ["lora-scratch --import vera train", "--rank", "2"],
        "lora-scratch --import vera train --rank 2",
        ["-m", "lora_scratch", "--import", "vera", "train"],
    ),
]


@pytest.mark.parametrize(("words", "line", "program"), STARTS)
def test_a_recorded_command_is_one_that_can_be_pasted_and_started_again(words, line, program, monkeypatch):
    """Alone, as several processes, and as a child process."""
    monkeypatch.setattr(sys, "argv", words)
    assert command_line() == line
    assert restart_command() == [sys.executable, *program]
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    several = ["torchrun", "--nnodes", "2", "--nproc_per_node", "2", *program, *words[1:]]
    assert shlex.split(command_line()) == several


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_stop_cleans_up_and_gives_the_exit_code_of_the_signal(number, tmp_path):
    """No half file stays, and no child goes on alone."""

    def main():
        with new_file(tmp_path / "labels.jsonl") as file:
            file.write("half")
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is another
    try:
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert stop.value.code == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["scripts/train.py"], "lower --batch_size"),
        (["lora-scratch predict", "x"], "end other"),
        (["python -m lora_scratch train"], "lower --batch"),
    ],
)
def test_out_of_memory_names_flags_that_the_command_has(words, advice, monkeypatch, capsys):
    """`predict` has no --batch_size."""
    monkeypatch.setattr(sys, "argv", words)

    def main():
        raise MemoryError

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err.startswith(f"error: out of memory; {advice}")


def test_a_warning_of_the_project_is_one_line(capsys):
    """Others keep their place in the source; afterwards all do."""
    own, other, usual = runs.__file__, "elsewhere.py", warnings.formatwarning

    def main():
        for place in (own, other):
            sys.stderr.write(warnings.formatwarning("the schedule was cut", UserWarning, place, 7, line=""))

    run_command(main)
    assert capsys.readouterr().err == "warning: the schedule was cut\nelsewhere.py:7: UserWarning: the schedule was cut\n"
    assert warnings.formatwarning is usual


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (MemoryError(), "error: out of memory; end other programs, or use a machine with more memory"),
        (OSError(2, "No such file"), "error: base: can't be loaded"),
    ],
    ids=["memory", "file"],
)
def test_out_of_memory_behind_an_error_of_the_project_is_said_in_its_place(reason, line, monkeypatch, capsys):
    """Nothing is wrong with the model that could not be loaded."""
    monkeypatch.setattr(sys, "argv", ["lora-scratch predict"])

    def main():
        raise DataError("can't be loaded", where="base") from reason

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == f"{line}\n"


def test_an_error_stands_on_a_line_of_its_own_below_a_progress_bar(capsys):
    """A bar that an error left as it was has no newline."""

    def main():
        sys.stderr.write("\rclassify: 10%")
        raise DataError("is full", where="disk")

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == "\rclassify: 10%\nerror: disk: is full\n"
