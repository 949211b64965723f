"""scripts/train.py: the recommended recipe is the default, and the options of rare classes reach the training."""

import json

import pytest
from support.command_line import call, train_arguments

from lora_scratch.commands import train


def events(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def config(run, section):
    return json.loads((run / "config.json").read_text(encoding="utf-8"))[section]


def test_without_a_preset_the_recommended_recipe_is_used(job, tmp_path):
    """Rank 4 everywhere, a cosine, and the head fitted first."""
    run = tmp_path / "run"
    arguments = ["--model", job.base, "--dataset", job.data, "--output_dir", run, "--max_tokens", 32, "--epochs", 1]
    assert call(train, *arguments) == 0
    adapter, training = config(run, "LoRAConfig"), config(run, "TrainingConfig")
    assert (adapter["rank"], adapter["alpha"], training["schedule"], training["head_start"]) == (4, 8.0, "cosine", "auto")
    assert len(adapter["targets"]) == 12  # six linear layers in each of two blocks
    assert events(run)[0]["event"] == "head_start"


def test_weights_and_early_stopping_reach_the_training_and_its_record(job, tmp_path, capsys):
    """The weights are printed; provenance.json says how the adapter was trained; a resume knows it too."""
    run = tmp_path / "run"
    flags = ["--class_weights", "balanced", "--best_by", "macro_f1", "--evaluate_every", 3, "--patience", 1, "--epochs", 9]
    with pytest.warns(UserWarning, match=r"no better macro_f1 in 1 validations\. The schedule was cut"):
        assert call(train, *train_arguments(job.base, job.data, run), *flags) == 0
    assert "weight anger " in capsys.readouterr().out
    validations = [event for event in events(run) if event["event"] == "validation"]
    assert [event["step"] for event in validations] == [3 * (i + 1) for i in range(len(validations))]
    training = json.loads((run / "adapter" / "provenance.json").read_text(encoding="utf-8"))["training"]
    assert (training["class_weights"], training["best_by"], training["patience"]) == ("balanced", "macro_f1", 1)
    (run / "report.json").unlink()
    assert call(train, "--resume", run, "--class_weights", '{"joy": 2}') == 1
    assert "--class_weights is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--best_by", "pearson"],
            "--best_by: there is no score 'pearson'; expected one of accuracy, macro_f1, matthews, loss",
        ),
        (["--class_weights", '{"surprise": 2, "wonder": 1}'], "--class_weights: there is no label 'wonder'"),
        (["--class_weights", "equal"], "--class_weights: found 'equal'; expected balanced, or JSON"),
        (["--patience", -1], "--patience: found -1; expected at least 0"),
    ],
    ids=str,
)
def test_a_wrong_option_ends_before_the_work(job, tmp_path, capsys, flags, message):
    """One line, and no run folder."""
    run = tmp_path / "run"
    assert call(train, *train_arguments(job.base, job.data, run), *flags) == 1
    assert message in capsys.readouterr().err
    assert not run.exists()


WORDS = ("calm", "loud", "bright", "late", "soft", "early")
PAIRS = [(a, b) for a in WORDS for b in WORDS]
KINDS = {
    "several labels": (lambda a, b: {"text": f"{a} {b}", "label": sorted({a, b} & {"calm", "loud", "late"})}, "multi_label"),
    "a number of a pair": (lambda a, b: {"text": a, "pair": b, "label": len(a) - len(b) + 0.5}, "regression"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_serves_every_kind_of_task(job, tmp_path, kind):
    """The head is fitted by the task's own linear model: logistic for each label, ridge for a number."""
    row, task = KINDS[kind]
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row(*pair)) for pair in PAIRS), encoding="utf-8")
    pair = ["--pair_column", "pair"] if "pair" in row("a", "b") else []
    arguments = ["--model", job.base, "--dataset", folder, *pair, "--output_dir", tmp_path / "run", "--max_tokens", 16]
    assert call(train, *arguments, "--epochs", 1) == 0
    first, *_, last = events(tmp_path / "run")
    assert (first["event"], first["rows"], last["event"]) == ("head_start", len(PAIRS), "validation")
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["task"] == task
