"""scripts/benchmarks/benchmark.py: every measure of every contender on a tiny model, the tables and the JSON."""

import json
import math
import sys

import pytest
from support.command_line import call
from support.measuring import measured_here

from lora_scratch.commands.benchmarks import benchmark, growth, process, rounds, start_up
from lora_scratch.commands.benchmarks.contenders import CONTENDERS, DEFAULT
from lora_scratch.commands.benchmarks.figures import Figure, Figures
from lora_scratch.commands.benchmarks.idle import Idleness
from lora_scratch.commands.benchmarks.machine import cpu_kind
from lora_scratch.commands.benchmarks.tables import render_figures
from lora_scratch.errors import LoraScratchError

IDLE, BUSY = Idleness(0.99, 0.1), Idleness(0.5, 3.0)
MEASURES = ("training", "floor", "prediction", "start-up", "growth", "peak", "race")


@pytest.fixture
def small(job):
    """Settings of a few seconds."""
    sizes = ["--batch_size", 8, "--epochs", 1, "--limit_train", 16, "--max_tokens", 32, "--rank", 4, "--alpha", 8]
    bounds = ["--rounds", 1, "--steps", 2, "--seconds", 0, "--texts", 12, "--rows", 20, "--every", 1]
    return ["--model", job.base, "--dataset", job.data, *sizes, *bounds]


@pytest.fixture
def in_process(monkeypatch):
    """No process for each measurement."""
    monkeypatch.setattr(rounds, "in_a_process", measured_here(benchmark))
    monkeypatch.setattr(growth, "in_a_process", measured_here(benchmark))
    monkeypatch.setattr(rounds, "look", lambda: IDLE)
    monkeypatch.setattr(start_up, "_import_once", lambda: 0.03)


@pytest.mark.usefixtures("in_process")
def test_benchmark_measures_all_and_writes_figures_summary_and_machine(small, tmp_path, capsys):
    """One round of everything: each contender has its figures, and the tables show them."""
    arguments = ["--measures", *MEASURES, "--goal", 0.01, "--json", tmp_path / "all.json"]
    assert call(benchmark, *small, *arguments) == 0
    found = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert found.keys() == {"command", "settings", "machine", "figures", "summary"}
    measured = {(each["measure"], each["contender"]): each for each in found["figures"]}
    for name in DEFAULT:
        assert measured["training", name]["steps"] == 2
        assert measured["training", name]["tokens_per_second"] > 0
    tokens = {measured["training", name]["tokens"] for name in DEFAULT if name.startswith("ours")}
    assert tokens == {measured["floor", "ours-bf16"]["tokens"]}  # of the same steps
    assert {name for measure, name in measured if measure == "race"} == {"peft-best", "ours-bf16"}
    assert measured["race", "ours-bf16"]["seconds_to_goal"] > 0
    assert found["machine"]["cpu"] == cpu_kind()
    assert {"torch", "peft", "accelerate", "transformers", "python"} <= found["machine"]["versions"].keys()
    out = capsys.readouterr().out
    for name in (*MEASURES, *DEFAULT, "the machine was idle", f"| training, {cpu_kind()} | tokens/s |"):
        assert name in out


@pytest.mark.usefixtures("in_process")
def test_benchmark_measures_whole_jobs_on_the_test_rows(small, tmp_path, capsys):
    """All epochs, the best by validation, by the same code for both sides; no side's padding counts as tokens."""
    contenders = ["ours-plain", "ours-bf16", "peft-bf16", "peft-best"]
    arguments = ["--measures", "job", "--contenders", *contenders, "--json", tmp_path / "all.json"]
    assert call(benchmark, *small, *arguments) == 0
    figures = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["figures"]
    assert [each["contender"] for each in figures] == contenders
    assert len({each["tokens"] for each in figures}) == 1
    out = capsys.readouterr().out
    assert (
        f"| job, {cpu_kind()} | training s | tokens/s | accuracy | macro-F1 | Matthews | loss (nats) | against the first |"
        in out
    )
    assert "| peft-bf16 |" in out


def test_every_contender_says_what_it_is():
    """The default ones are some of them."""
    assert set(DEFAULT) <= set(CONTENDERS)
    assert len({each.meaning for each in CONTENDERS.values()}) == len(CONTENDERS)


def test_benchmark_runs_a_measurement_in_a_process_of_its_own(small, capsys, monkeypatch):
    """With the flags of the command; what the machine did before stands beside it, also when others were at work."""
    monkeypatch.setattr(rounds, "look", lambda: BUSY)
    assert call(benchmark, *small, "--measures", "training", "--contenders", "ours") == 0
    out = capsys.readouterr().out
    assert "| ours |" in out
    assert "1 of 1 measurements on a machine that was not idle (*)" in out


@pytest.mark.usefixtures("in_process")
def test_flags_of_ours_reach_no_other_contender(small, tmp_path):
    """Two accumulated batches a step hold the tokens of two, for ours alone."""
    one_row = ["--limit_train", 1, "--steps", 3]  # of which every batch is made; with the warm one four, two by two
    arguments = [*one_row, "--measures", "training", "--contenders", "peft", "ours-fp32", "--json", tmp_path / "all.json"]
    assert call(benchmark, *small, *arguments, "--flags_of_ours", "--accumulation_steps 2") == 0
    found = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    theirs, ours = (each["tokens"] / each["steps"] for each in found["figures"])
    assert ours == 2 * theirs


def test_benchmark_says_which_measurement_failed_and_why():
    """The last line of the process, and the name that runs it alone."""
    command = [sys.executable, "-c", "import sys; sys.exit('first line\\nrank is 999')", "--only", "training:ours"]
    with pytest.raises(LoraScratchError, match=r"--only training:ours: ended with 1: rank is 999"):
        process.in_a_process(command)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--contenders", "theirs"], "--contenders: found 'theirs'; expected peft, "),
        (["--measures", "fun"], "--measures: found 'fun'; expected training, "),
        (["--split", "train"], "--split: found 'train'; expected validation, test"),
        (["--rounds", "0"], "--rounds: found 0; expected at least 1"),
        (["--seconds", "nan"], "--seconds: found nan; expected a number of seconds, at least 0"),
    ],
)
def test_benchmark_refuses_what_it_can_not_measure(flags, message, capsys):
    """Before anything is loaded."""
    assert call(benchmark, *flags) == 1
    assert message in capsys.readouterr().err


def figure(measure, contender, number=0, machine=IDLE, **values):
    return Figure(measure, contender, number, values, machine)


def test_tables_compare_medians_over_the_rounds():
    """The middle round counts, not the mean: 1,200 against 100 is 12 times. Each table names the machine."""
    ours = [figure("training", "ours-bf16", n, tokens_per_second=v) for n, v in enumerate((1200, 1300, 10))]
    theirs = [figure("training", "peft", n, tokens_per_second=v) for n, v in enumerate((100, 90, 10_000))]
    table = render_figures(Figures([*theirs, *ours]), machine="AMX").splitlines()
    assert table[0].startswith("| training, AMX | tokens/s | ")
    assert table[-1] == "| ours-bf16 | 1,200 (10 to 1,300) | - | 12.00 |"


def test_the_table_of_prediction_shows_the_share_of_equal_labels():
    """The labels of every contender are compared with the first one's; they are not in the JSON."""
    pairs = (("pipeline", "abcb"), ("ours-bf16", "abca"))
    figures = [figure("prediction", name, texts_per_second=8, labels=list(labels)) for name, labels in pairs]
    table = render_figures(Figures(figures), machine="AMX").splitlines()
    assert table[0].endswith("| against the first | equal labels |")
    assert table[-1] == "| ours-bf16 | 8 | 1.00 | 75.0% |"
    assert "labels" not in figures[0].as_json()


def test_summary_has_median_and_extremes_and_counts_the_idle_rounds():
    """As the tables show them."""
    figures = [figure("start-up", "lora_scratch", n, BUSY if n else IDLE, seconds=v) for n, v in enumerate((0.3, 0.1, 0.2))]
    (found,) = Figures(figures).summary()
    assert found["seconds"] == {"median": 0.2, "min": 0.1, "max": 0.3}
    assert (found["rounds"], found["idle_rounds"]) == (3, 1)
    assert math.isclose(figures[1].as_json()["machine"]["idle_share"], 0.5)
