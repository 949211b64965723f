"""scripts/study/compare.py: the rungs on the same rows, resumable, one table, tested against one of them."""

import json
from pathlib import Path

import pytest
from support.command_line import call, train_arguments
from support.trainings import train_in_process

from lora_scratch.commands import train
from lora_scratch.commands.study import compare, section7
from lora_scratch.runs import read_logits
from lora_scratch.tasks import mcnemar


@pytest.fixture
def arguments(job, tmp_path):
    """A comparison of a few seconds."""
    small = train_arguments(job.base, job.data, tmp_path / "unused")
    place = small.index("--output_dir")
    del small[place : place + 2]
    return [*small, "--limit_train", 32, "--limit_eval", 16, "--epochs", 1]


def compared(folder, arguments, *more, rungs, seeds=(0,)):
    return call(compare, *arguments, "--output_dir", folder, "--rungs", *rungs, "--seeds", *seeds, *more)


@pytest.fixture
def in_process(monkeypatch):
    """No process for each run. The places that were trained."""
    return train_in_process(monkeypatch)


def test_the_command_that_trains_is_where_comparisons_look_for_it():
    """They start it as a process of its own, from a checkout and from a wheel."""
    for module in (compare, section7):
        assert Path(train.__file__).samefile(module.TRAIN)


def test_a_comparison_and_its_trainings_take_their_flags_from_one_file(arguments, tmp_path, in_process):
    """Flags of compare and of train side by side; one that is typed counts more, and every run records what it was given."""
    keys = [str(flag).removeprefix("--") for flag in arguments[::2]]
    job = {**dict(zip(keys, map(str, arguments[1::2]), strict=True)), "rungs": ["lora"], "seeds": [0, 1]}
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps({**job, "output_dir": str(tmp_path / "unused"), "epochs": 9}), encoding="utf-8")
    folder = tmp_path / "comparison"
    assert call(compare, "--config", config, "--output_dir", folder, "--seeds", 1, "--epochs", 1) == 0
    assert in_process == [folder / "lora" / "seed-1"]
    record = json.loads((folder / "lora" / "seed-1" / "config.json").read_text(encoding="utf-8"))
    assert (record["TrainingConfig"]["epochs"], record["LoRAConfig"]["rank"]) == (1, 4)
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("key", ["seed", "resume"])
def test_a_flag_that_compare_sets_is_refused_in_a_file_too(tmp_path, capsys, key):
    """As on the command line."""
    (tmp_path / "job.yaml").write_text(f"{key}: 3\n", encoding="utf-8")
    assert call(compare, "--config", tmp_path / "job.yaml", "--output_dir", tmp_path / "x") == 2
    assert f"--{key}=3 is set for each run" in capsys.readouterr().err


def test_compare_runs_every_rung_with_every_seed_and_goes_on_where_it_stopped(arguments, tmp_path, capsys, in_process):
    """A run folder for each; a second call adds what is missing and leaves the rest alone."""
    folder = tmp_path / "comparison"
    assert compared(folder, arguments, rungs=["lora"], seeds=[0, 1]) == 0
    assert compared(folder, arguments, rungs=["lora", "dora"], seeds=[0, 1]) == 0
    assert [str(place.relative_to(folder)) for place in in_process] == [
        "lora/seed-0",
        "lora/seed-1",
        "dora/seed-0",
        "dora/seed-1",
    ]
    figures = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["runs"]
    assert [(each["rung"], each["seed"]) for each in figures] == [("lora", 0), ("dora", 0), ("lora", 1), ("dora", 1)]
    config = json.loads((folder / "dora" / "seed-1" / "config.json").read_text(encoding="utf-8"))
    assert (config["LoRAConfig"]["variant"], config["TrainingConfig"]["seed"]) == ("dora", 1)
    table = (folder / "comparison.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert "| lora | 2 |" in table
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"{each['accuracy']:.4f}" in page for each in figures)


def test_the_ladder_trains_four_of_its_rungs_and_tests_all_against_the_probe(arguments, tmp_path, capsys, in_process):
    """Untrained head and probe are measured on the run of LoRA; each p-value is that of the logits that lie there."""
    folder = tmp_path / "ladder"
    assert call(compare, *arguments, "--output_dir", folder, "--seeds", 0, "--flags_of", "full", "--learning_rate 3e-3") == 0
    assert [place.parent.name for place in in_process] == ["lora", "lora_no_head", "dora", "full"]
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    runs, duels = ({each["rung"]: each for each in found[kind]} for kind in ("runs", "duels"))
    reports = {
        rung: json.loads((folder / rung / "seed-0" / "report.json").read_text(encoding="utf-8")) for rung in ("lora", "full")
    }
    assert runs["untrained"]["accuracy"] == reports["lora"]["baseline"]["accuracy"]
    assert runs["probe"]["accuracy"] == reports["lora"]["linear_probe"]["accuracy"]
    assert runs["full"]["trained"] == reports["full"]["parameters"]["total"]
    assert runs["lora_no_head"]["trained"] == reports["lora"]["parameters"]["lora"]
    assert runs["probe"]["trained"] == (32 + 1) * 6
    assert "probe" not in duels
    logits = read_logits(folder / "lora" / "seed-0")
    right = {name: logits[name].argmax(-1) == logits["labels"] for name in ("probe", "adapted")}
    assert duels["lora"]["p_value"] == mcnemar(right["probe"], right["adapted"]).p_value
    config = json.loads((folder / "full" / "seed-0" / "config.json").read_text(encoding="utf-8"))
    assert config["TrainingConfig"]["learning_rate"] == 3e-3
    assert "| full | 1 |" in capsys.readouterr().out


def test_a_curve_runs_all_rungs_over_growing_training_sets(arguments, tmp_path, capsys, in_process):
    """The first N rows each."""
    place = arguments.index("--limit_train")
    del arguments[place : place + 2]
    folder = tmp_path / "curve"
    assert compared(folder, arguments, "--curve", 16, 48, "--against", "untrained", rungs=["untrained", "lora"]) == 0
    sizes = [
        json.loads((place / "config.json").read_text(encoding="utf-8"))["DataOptions"]["limit_train"] for place in in_process
    ]
    assert sizes == [16, 48]
    assert "| rows | untrained | lora |" in capsys.readouterr().out
    assert "Over growing training sets" in (folder / "report.html").read_text(encoding="utf-8")


def test_compare_refuses_a_folder_that_was_begun_with_other_flags(arguments, tmp_path, capsys, in_process):
    """Else one table would hold runs of different budgets. The same for flags of one rung."""
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "command.json").write_text('["--epochs", "9"]')
    assert compared(folder, arguments, rungs=["lora"]) == 1
    assert "was begun with --epochs 9" in capsys.readouterr().err
    folder = tmp_path / "another"
    assert compared(folder, arguments, rungs=["lora"]) == 0
    assert compared(folder, arguments, "--flags_of", "lora", "--rank 2", rungs=["lora"]) == 1
    assert "another/lora: was begun with" in capsys.readouterr().err


def test_compare_runs_train_in_a_process_of_its_own(arguments, tmp_path):
    """Peak memory and CPU time of one run say nothing of another."""
    assert compared(tmp_path / "comparison", arguments, rungs=["lora"]) == 0
    place = tmp_path / "comparison" / "lora" / "seed-0"
    cost = json.loads((place / "report.json").read_text(encoding="utf-8"))["train"]
    assert 0.01 < cost["cpu_seconds"] < 600
    assert "accuracy" in place.with_suffix(".log").read_text(encoding="utf-8")


def test_compare_says_which_run_failed_and_why(arguments, tmp_path, capsys, monkeypatch):
    """The last line of the training, and where all of it is."""
    script = tmp_path / "train.py"  # the command itself takes seconds to start
    script.write_text(
        "import sys\nprint(*sys.argv)\nsys.exit('error: --rank: found ' + sys.argv[sys.argv.index('--rank') + 1])"
    )
    monkeypatch.setattr(compare, "TRAIN", script)
    arguments[arguments.index("--rank") + 1] = 9999
    assert compared(tmp_path / "comparison", arguments, rungs=["lora"]) == 1
    log = tmp_path / "comparison" / "lora" / "seed-0.log"
    assert "--resume" in log.read_text(encoding="utf-8")
    said = capsys.readouterr().err
    assert "\nerror: train.py for " in said
    assert f"seed-0: --rank: found 9999; {log} has all it said" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed=3"], "use --seeds"),
        (["--trainable", "all"], "use --seeds, --rungs"),
        (["--against", "probe"], "not among the rungs"),
        (["--flags_of", "probe", "--rank 2"], "no rung with a training of its own"),
        (["--curve", "16"], "--limit_train is set for each run by --curve"),
        (["--processes", "0"], "expected 1 to 4096"),
    ],
)
def test_compare_refuses_what_would_make_its_table_say_something_else(arguments, tmp_path, capsys, flags, said):
    """A seed given for all would make the runs of one rung the same run; flags of a rung that is not trained say nothing."""
    assert compared(tmp_path / "comparison", [*arguments, *flags], rungs=["lora"]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, capsys):
    """It may be the user's data: nothing is written there, and nothing under it is taken for an interrupted run."""
    (tmp_path / "lora" / "seed-0").mkdir(parents=True)
    (tmp_path / "lora" / "seed-0" / "thesis.txt").write_text("years")
    assert call(compare, "--output_dir", tmp_path, "--rungs", "lora", "--seeds", "0") == 1
    assert "holds files already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.*")] == ["thesis.txt"]
