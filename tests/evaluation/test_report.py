import importlib.metadata
import json
import math
import platform

import pytest
import torch

from lora_scratch.errors import ConfigError, DataError
from lora_scratch.evaluation import build_report, confusion, measure, versions

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
BASELINE = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), 3).float()  # rows 0 and 3 right
ADAPTED = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1, 1, 2, 0, 0]), 3).float()  # all right but row 3
TRAIN = {"seconds": 2.0, "examples": 64, "tokens": 640, "examples_per_second": 32.0, "peak_memory_bytes": 2**30}
ARGUMENTS = {
    "baseline_logits": BASELINE,
    "adapted_logits": ADAPTED,
    "labels": LABELS,
    "names": ("joy", "fear", "love"),
    "parameters": {"total": 1000, "trainable": 30, "lora": 20, "head": 10},
    "train": TRAIN,
    "versions": {"python": "3.12"},
    "command": "python scripts/train.py",
}


def report(**changes):
    return build_report(**{**ARGUMENTS, **changes})


def test_build_report_has_every_key_of_the_contract():
    """Who reads report.json may rely on these keys."""
    found = report()
    for model in ("baseline", "adapted"):
        assert found[model].keys() == {"accuracy", "macro_f1", "loss", "n"}
    assert found["parameters"].keys() == {"total", "trainable", "lora", "head"}
    assert found["train"].keys() == {"seconds", "examples", "tokens", "examples_per_second", "peak_memory_bytes"}
    assert found["mcnemar"].keys() == {"fixed", "broken", "p_value"}
    assert found["versions"] == {"python": "3.12"}
    assert found["command"] == "python scripts/train.py"
    assert "linear_probe" not in found


def test_build_report_holds_the_figures_of_the_right_model():
    """Baseline and adapted are not swapped: 2 of 8 right before, 7 of 8 after; 6 fixed, 1 broken, p = 16/128."""
    found = report()
    assert (found["baseline"]["accuracy"], found["adapted"]["accuracy"]) == (0.25, 0.875)
    assert found["mcnemar"] == {"fixed": 6, "broken": 1, "p_value": pytest.approx(0.125)}
    assert found["adapted"]["loss"] == measure(ADAPTED, LABELS).loss
    assert found["confusion"]["baseline"] == [[2, 2, 0], [2, 0, 0], [2, 0, 0]]
    assert found["confusion"]["adapted"] == confusion(ADAPTED, LABELS).tolist()
    assert [row["label"] for row in found["per_class"]["adapted"]] == found["labels"] == ["joy", "fear", "love"]
    assert found["per_class"]["adapted"][0]["recall"] == 0.75
    assert (sum(found["per_class"]["fixed"]), sum(found["per_class"]["broken"])) == (6, 1)


def test_build_report_is_strict_json():
    """It comes back from JSON exactly as it went in, and NaN is not in it."""
    found = report(probe_logits=BASELINE)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_build_report_measures_the_linear_probe_if_there_is_one():
    """The same four figures as of the models."""
    assert report(probe_logits=ADAPTED)["linear_probe"] == report()["adapted"]


def test_build_report_without_training_says_so():
    """The key stays, so that a reader need not ask whether it is there."""
    assert report(train=None)["train"] is None


def test_build_report_keeps_what_is_added():
    """More counts, more training figures, more sections."""
    found = report(train={**TRAIN, "skipped_steps": 3}, seed=7)
    assert found["train"]["skipped_steps"] == 3
    assert found["seed"] == 7


@pytest.mark.parametrize("part", ["parameters", "train"])
def test_build_report_refuses_a_part_with_a_key_missing(part):
    """The contract is checked when the report is made, not when someone reads it."""
    gone = next(iter(ARGUMENTS[part]))
    rest = {key: value for key, value in ARGUMENTS[part].items() if key != gone}
    with pytest.raises(ConfigError, match=f"report: {part}: without {gone}"):
        report(**{part: rest})


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(1.0)])
def test_build_report_refuses_what_json_has_no_form_for(value):
    """A throughput of infinity after 0 seconds is a defect to see here, not in a reader of the file."""
    with pytest.raises(ConfigError, match="report: not a JSON value"):
        report(train={**TRAIN, "examples_per_second": value})


def test_build_report_refuses_an_extra_that_would_hide_a_figure():
    """An addition never replaces a figure of the report."""
    with pytest.raises(ConfigError, match="extra keys mcnemar are the report's own"):
        report(mcnemar={"p_value": 0.0})


def test_build_report_refuses_logits_of_other_rows():
    """A paired comparison needs the same rows."""
    with pytest.raises(DataError, match=r"logits \(7, 3\) and labels \(8,\)"):
        report(adapted_logits=ADAPTED[:-1])


def test_versions_name_python_and_the_packages():
    """Everything the figures depend on, as installed."""
    found = versions()
    assert found.keys() == {"python", "torch", "transformers", "datasets", "safetensors", "lora-scratch"}
    assert found["python"] == platform.python_version()
    assert found["torch"] == importlib.metadata.version("torch")


def test_versions_say_so_when_a_package_is_not_installed(monkeypatch):
    """A checkout that runs without being installed still gives a report."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("lora_scratch.evaluation.report.version", missing)
    assert versions()["lora-scratch"] == "not installed"
