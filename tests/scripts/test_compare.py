"""scripts/compare.py: variants on the same rows, resumable, one table."""

import json

import compare
import pytest
import train
from command_line import call, train_arguments


@pytest.fixture
def arguments(job, tmp_path):
    """A comparison of a few seconds."""
    small = train_arguments(job.base, job.data, tmp_path / "unused")
    place = small.index("--output_dir")
    del small[place : place + 2]
    return [*small, "--limit_train", 32, "--limit_eval", 16, "--epochs", 1]


def compared(folder, arguments, *, rungs, seeds):
    return call(compare, *arguments, "--output_dir", folder, "--rungs", *rungs, "--seeds", *seeds)


@pytest.fixture
def in_process(monkeypatch):
    """No process for each run: its start takes longer than the run."""

    def run_train(flags, place):
        assert call(train, *flags) == 0
        return {"cpu_seconds": 1.0}

    monkeypatch.setattr(compare, "run_train", run_train)


@pytest.mark.usefixtures("in_process")
def test_compare_runs_every_rung_with_every_seed_and_goes_on_where_it_stopped(arguments, tmp_path, capsys):
    """A run folder for each; a second call adds what is missing and leaves the rest alone; a half one is run again."""
    folder = tmp_path / "comparison"
    assert compared(folder, arguments, rungs=["lora"], seeds=[0, 1]) == 0
    kept = folder / "lora" / "seed-0" / "report.json"
    before = kept.stat().st_mtime_ns
    (folder / "lora" / "seed-1" / "cost.json").unlink()  # as if stopped on the way
    assert compared(folder, arguments, rungs=["lora", "dora"], seeds=[0, 1]) == 0
    assert kept.stat().st_mtime_ns == before
    figures = json.loads((folder / "comparison.json").read_text())
    assert {(each["rung"], each["seed"]) for each in figures} == {("lora", 0), ("dora", 0), ("lora", 1), ("dora", 1)}
    config = json.loads((folder / "dora" / "seed-1" / "config.json").read_text())
    assert (config["LoRAConfig"]["variant"], config["TrainingConfig"]["seed"]) == ("dora", 1)
    table = (folder / "comparison.md").read_text()
    assert table in capsys.readouterr().out
    assert "| lora | 2 |" in table
    page = (folder / "report.html").read_text()
    assert all(f"{each['adapted']['accuracy']:.4f}" in page for each in figures)


def test_compare_refuses_a_folder_that_was_begun_with_other_flags(arguments, tmp_path, capsys):
    """Else one table would hold runs of different budgets."""
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "command.json").write_text('["--epochs", "9"]')
    assert compared(folder, arguments, rungs=["lora"], seeds=[0]) == 1
    assert "was begun with --epochs 9" in capsys.readouterr().err


def test_compare_runs_train_in_a_process_of_its_own_and_counts_its_cpu_time(arguments, tmp_path):
    """Peak memory and CPU time of one run say nothing of another."""
    place = tmp_path / "lora" / "seed-0"
    cost = compare.run_train([str(each) for each in [*arguments, "--output_dir", place]], place)
    assert 0.5 < cost["cpu_seconds"] < 600
    assert (place / "report.json").exists()
    assert "accuracy" in place.with_suffix(".log").read_text()


def test_compare_says_which_run_failed_and_why(arguments, tmp_path, capsys):
    """The last line of train.py, and where all of it is."""
    assert compared(tmp_path / "comparison", [*arguments, "--rank", 9999], rungs=["lora"], seeds=[0]) == 1
    said = capsys.readouterr().err
    assert "seed-0" in said
    assert "9999" in said


def test_compare_sets_seed_and_folder_itself(arguments, tmp_path, capsys):
    """A seed given for all would make the runs of one rung the same run."""
    assert compared(tmp_path / "comparison", [*arguments, "--seed=3"], rungs=["lora"], seeds=[0]) == 2
    assert "--seeds" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, capsys):
    """It may be the user's data: nothing is written there, and nothing under it is taken for an interrupted run."""
    (tmp_path / "lora" / "seed-0").mkdir(parents=True)
    (tmp_path / "lora" / "seed-0" / "thesis.txt").write_text("years")
    assert call(compare, "--output_dir", tmp_path, "--rungs", "lora", "--seeds", "0") == 1
    assert "holds files already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.*")] == ["thesis.txt"]
