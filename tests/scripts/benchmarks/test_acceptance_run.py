"""scripts/benchmarks/acceptance: parts are run, judged and reported; the profile and the GPU tests are read right."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from lora_scratch.commands.benchmarks import process
from lora_scratch.commands.benchmarks.acceptance import gpu_tests, runner, summary
from lora_scratch.commands.benchmarks.acceptance.finding import Finding, Gate, Part, Result, judge
from lora_scratch.commands.benchmarks.acceptance.profiling import summarize_trace
from lora_scratch.commands.benchmarks.acceptance.setup import Setup, choose_device
from lora_scratch.commands.benchmarks.process import ProcessError, in_a_process
from lora_scratch.errors import ConfigError, LoraScratchError

CPU = Setup(torch.device("cpu"))
GPU = Setup(torch.device("cuda"))


def part(name="one", **settings):
    return Part(name, "proof", 60, lambda setup: Finding("fine"), **settings)


def found(*, holds=None, **figures):
    return {"finding": {"line": "found", "holds": holds, "figures": figures, "skipped": []}, "machine": {"gpu": None}}


@pytest.mark.parametrize(
    ("holds", "ratio", "is_small", "status"),
    [
        (True, None, False, "passed"),
        (False, None, False, "failed"),
        (False, None, True, "failed"),
        (True, None, True, "small form"),
        (None, 4.0, False, "measured"),
        (None, 3.99, False, "failed"),
        (None, float("nan"), False, "failed"),
        (None, 0.5, True, "small form"),
        (None, None, False, "measured"),
    ],
)
def test_a_part_is_judged_by_its_proof_and_its_gate(holds, ratio, is_small, status):
    """A gate is met at its bound, missed below; in small form nothing is proven, but a failure is one all the same."""
    figures = {} if ratio is None else {"ratio": ratio}
    finding = found(holds=holds, **figures)["finding"]
    assert judge(part(gate=Gate("ratio", 4.0)), finding, is_small=is_small)[0] == status


def test_a_missed_gate_says_its_bound():
    """And what was found."""
    finding = found(ratio=3.0)["finding"]
    _, line = judge(part(gate=Gate("ratio", 4.0)), finding, is_small=False)
    assert line == "found; gate missed: ratio must be at least 4"


def test_a_part_that_fails_is_reported_and_the_others_run(monkeypatch):
    """With the line of its error and the end of its output."""

    def run(command, *, limit_s, environment):
        if command[-1] == "two":
            raise ProcessError("ended with 1: RuntimeError: no kernel", where="x", output="Traceback ...")
        return found(holds=True)

    monkeypatch.setattr(runner, "in_a_process", run)
    results = list(runner.run_parts([part("one"), part("two"), part("three")], GPU, ["run"], limit_s=100))
    assert [each.status for each in results] == ["passed", "failed", "passed"]
    assert (results[1].line, results[1].output) == ("ended with 1: RuntimeError: no kernel", "Traceback ...")
    assert not summary.is_accepted(results)
    assert summary.verdict(results) == "NOT ACCEPTED: two"


def test_a_part_has_its_budget_or_the_time_that_is_left(monkeypatch):
    """And where there is none it fails: what was not proven is not accepted."""
    limits, clock = [], iter([0, 0, 0, 0, 50, 50, 50, 96])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(runner, "in_a_process", lambda command, limit_s, environment: limits.append(limit_s) or found())
    results = list(runner.run_parts([part("one"), part("two"), part("three")], GPU, ["run"], limit_s=100))
    assert limits == [60, 50]
    assert (results[2].status, results[2].line) == ("failed", "not run: no time left; raise --minutes")


def test_a_part_that_lacks_something_is_skipped_by_name():
    """With what it lacks."""
    result = runner.run_part(part(lacks=lambda setup: "no GPU"), CPU, ["run"], left_s=100)
    assert summary.line_of(result) == "skipped: one: no GPU"
    assert summary.is_accepted([result])
    assert summary.verdict([result]) == "nothing was judged: no GPU"


@pytest.mark.parametrize(
    ("visible", "sees_all", "shown"),
    [("2,3", False, {"CUDA_VISIBLE_DEVICES": "2"}), (None, False, {"CUDA_VISIBLE_DEVICES": "0"}), ("2,3", True, {})],
)
def test_a_part_sees_one_gpu(visible, sees_all, shown, monkeypatch):
    """Trainer would use all that it sees, and be compared with one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert runner.visible_gpus(part(sees_all_gpus=sees_all)) == shown


def test_the_device_is_chosen_without_touching_the_gpu(monkeypatch):
    """The process that starts the parts holds no memory there; a GPU that is asked for and absent is one clear line."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the GPU is touched"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device("auto")) == "cpu"
    with pytest.raises(ConfigError, match="--device cuda: no GPU here; expected a GPU that torch sees; use --device cpu"):
        choose_device("cuda")


def test_the_table_tells_rows_that_were_skipped_and_parts_that_prove_nothing():
    """By name, below it."""
    results = [
        Result("speed", "measure", "measured", "a | b", 3.21, skipped=["peft: peft not installed"]),
        Result("graphs", "proof", "small form", "equal bits", 1.0),
    ]
    assert "| speed | measure | measured | 3.2 | a / b |" in summary.render_results(results)
    assert list(summary.remarks(results)) == [
        "skipped: speed: peft: peft not installed",
        "not proven and not judged, since there is no GPU: graphs",
    ]
    assert summary.verdict(results) == "accepted: 1 of 2 parts"


def test_a_process_that_takes_too_long_is_ended_with_what_it_started(monkeypatch):
    """Nothing of it holds the GPU afterwards: it leads a group of its own, and the whole group is ended."""
    ended, usual = [], os.killpg

    def end(group, number):
        ended.append((group != os.getpgrp(), number))
        usual(group, number)

    monkeypatch.setattr(os, "killpg", end)
    with pytest.raises(ProcessError, match="took longer than 1 s"):
        in_a_process([sys.executable, "-c", "import signal; signal.pause()", "--part", "slow"], limit_s=1)
    assert ended == [(True, signal.SIGKILL)]


def test_a_process_has_its_variables_and_a_failure_the_end_of_its_output():
    """The last line is the message, the last forty the output."""
    shown = in_a_process([sys.executable, "-c", "import os; print(os.environ['SHOWN'])"], environment={"SHOWN": '{"a": 1}'})
    assert shown == {"a": 1}
    script = "import sys; [print(line, file=sys.stderr) for line in range(99)]; sys.exit(3)"
    with pytest.raises(ProcessError, match="ended with 3: 98") as failure:
        in_a_process([sys.executable, "-c", script, "--part", "bad"])
    assert failure.value.output.splitlines() == [str(line) for line in range(99 - process.TAIL_LINES, 99)]


def event(category, start, length):
    return {"ph": "X", "cat": category, "ts": start, "dur": length, "name": "x"}


def test_a_profile_counts_kernels_and_the_time_in_which_any_of_them_runs():
    """Overlapping kernels count once, copies keep the GPU busy too, and what the host does is no work of the GPU."""
    events = [
        event("kernel", 0, 10),
        event("kernel", 5, 10),
        event("kernel", 6, 2),
        event("gpu_memcpy", 20, 5),
        event("gpu_user_annotation", 0, 100),
        event("cpu_op", 0, 90),
        event("cpu_op", 90, 9),
        {"ph": "M", "cat": "kernel", "name": "metadata"},
    ]
    assert summarize_trace(events, steps=2) == {"operators_per_step": 1, "kernels_per_step": 1.5, "busy_share": 0.8}
    assert summarize_trace(events[5:7], steps=1) == {"operators_per_step": 2, "kernels_per_step": 0}


SUMMARY = "FAILED tests/x.py::test_a - assert 0\n1 failed, 5 passed, 2 skipped, 31 deselected in 8.11s"


def test_the_outcomes_of_pytest_are_read_from_its_last_line():
    """Deselected ones are no outcome."""
    assert gpu_tests.count_outcomes(SUMMARY) == {"failed": 1, "passed": 5, "skipped": 2}
    assert gpu_tests.count_outcomes("no tests ran in 0.01s") == {}


@pytest.mark.parametrize(
    ("output", "code", "holds"), [(SUMMARY, 1, False), ("5 passed in 8.11s", 0, True), ("5 skipped in 8.11s", 0, False)]
)
def test_the_gpu_tests_hold_when_some_passed_and_none_failed(output, code, holds, monkeypatch):
    """They are asked for by the variable that shows the GPU to the tests; those that failed are named."""
    asked = []

    def run(command, *, env, **_):
        asked.append(env["LORA_SCRATCH_GPU_TESTS"])
        return SimpleNamespace(stdout=output, stderr="", returncode=code)

    monkeypatch.setattr(gpu_tests.subprocess, "run", run)
    finding = gpu_tests.gpu_tests(GPU)
    assert (finding.holds, asked) == (holds, ["1"])
    assert ("FAILED tests/x.py::test_a" in finding.line) is (code == 1)


def test_gpu_tests_that_can_not_run_are_an_error(monkeypatch):
    """With the last line of pytest."""
    done = SimpleNamespace(stdout="", stderr="No module named pytest", returncode=1)
    monkeypatch.setattr(gpu_tests.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(LoraScratchError, match="pytest: ended with 1: No module named pytest"):
        gpu_tests.gpu_tests(GPU)


def test_the_variable_shows_the_gpu_and_the_word_selects_tests_that_are_there():
    """As tests/conftest.py has it; collecting them starts no GPU."""
    files = gpu_tests.gpu_test_files()
    assert [path.name for path in files] == ["test_cuda_graphs.py"]
    assert next(iter(gpu_tests.ASKED)) in (gpu_tests.TESTS / "conftest.py").read_text(encoding="utf-8")
    assert files[0].read_text(encoding="utf-8").count(f"@{gpu_tests.MARK}\n") >= 3
