import importlib.metadata
import json
import math
import platform
from dataclasses import replace

import pytest
import torch
from support.report_pages import module
from support.report_pages import report as full_report

from lora_scratch.adapter.state import ParameterCount
from lora_scratch.errors import ConfigError, DataError, LoraScratchError
from lora_scratch.evaluation import ProbeCost, Report, TrainingCost, versions
from lora_scratch.tasks import SINGLE_LABEL, confusion, make_task, measure

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
BASELINE = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), 3).float()  # rows 0 and 3 right
ADAPTED = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1, 1, 2, 0, 0]), 3).float()  # all right but row 3
TRAIN = TrainingCost(2.0, 1.5, 64, 640, 32.0, 2**30)
ARGUMENTS = {
    "task": make_task(SINGLE_LABEL, ("joy", "fear", "love")),
    "parameters": ParameterCount(total=1000, trainable=30, lora=20, head=10),
    "train": TRAIN,
    "command": "python scripts/train.py",
}


def report(adapted=ADAPTED, **changes):
    return Report.compare(BASELINE, adapted, LABELS, **{**ARGUMENTS, **changes})


def test_report_as_json_has_every_key_of_the_contract():
    """Who reads report.json may rely on these keys."""
    found = report().as_json()
    for model in ("baseline", "adapted"):
        assert found[model].keys() == {"accuracy", "macro_f1", "matthews", "loss", "n"}
    assert found["parameters"].keys() == {"total", "trainable", "lora", "head", "bias"}
    assert found["train"].keys() == {
        *("seconds", "cpu_seconds", "examples", "tokens"),
        *("examples_per_second", "peak_memory_bytes", "skipped_steps"),
    }
    assert found["test"].keys() == {"title", "fixed", "broken", "p_value"}
    assert found["versions"] == versions()
    assert found["command"] == "python scripts/train.py"
    assert not found.keys() & {"linear_probe", "probe", "lengths", "anatomy", "quantization"}


def test_report_holds_the_figures_of_the_right_model():
    """Baseline and adapted are not swapped: 2 of 8 right before, 7 of 8 after; 6 fixed, 1 broken, p = 16/128."""
    found = report()
    assert (found.baseline.accuracy, found.adapted.accuracy) == (0.25, 0.875)
    assert (found.test.fixed, found.test.broken, found.test.p_value) == (6, 1, pytest.approx(0.125))
    assert found.adapted.loss == measure(ADAPTED, LABELS).loss
    assert found.confusion.baseline == [[2, 2, 0], [2, 0, 0], [2, 0, 0]]
    assert found.confusion.adapted == confusion(ADAPTED, LABELS).tolist()
    assert [row.label for row in found.per_class.adapted] == found.labels == ["joy", "fear", "love"]
    assert found.per_class.adapted[0].recall == 0.75
    assert (sum(found.per_class.fixed), sum(found.per_class.broken)) == (6, 1)


def everything():
    """A report with every field."""
    extra = {"probe": ProbeCost(2.0, 18), "anatomy": [module("q")], "quantization": {"relative_error": 0.1}}
    return full_report(linear_probe=report().baseline, **extra)


@pytest.mark.parametrize("build", [report, everything])
def test_report_comes_back_from_its_json(build):
    """from_json reverses as_json, through text, and NaN is not in it."""
    found = build()
    text = json.dumps(found.as_json(), allow_nan=False)
    assert json.loads(text) == found.as_json()
    assert Report.from_json(json.loads(text)) == found


def test_report_with_every_field_has_every_key():
    """The optional parts are written under these names."""
    found = everything().as_json()
    assert found.keys() >= {"linear_probe", "probe", "lengths", "anatomy", "quantization"}
    assert found["calibration"]["tempered"].keys() == {"temperature", "loss", "ece", "brier", "bins"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("verdict"), "report: verdict is missing"),
        (lambda r: r.update(more=1), "report: the content has unknown keys 'more'"),
        (lambda r: r["adapted"].update(accuracy="0.9"), r"report: adapted\.accuracy is '0\.9', expected a number"),
        (lambda r: r["test"].update(fixed=True), r"report: test\.fixed is True, expected a whole number"),
        (lambda r: r["baseline"].update(loss=math.nan), r"report: baseline\.loss is nan, expected a number"),
        (lambda r: r["train"].pop("tokens"), r"report: train\.tokens is missing"),
        (
            lambda r: r["confusion"].update(adapted=[[1, None]]),
            r"report: confusion\.adapted\[0\]\[1\] is None, expected a whole number",
        ),
        (lambda r: r.update(changed=[]), r"report: changed is \[\], expected an object"),
        (lambda r: r["versions"].update(torch=2), r"report: versions\.torch is 2, expected a text"),
    ],
)
def test_report_from_json_names_what_is_wrong(damage, message):
    """A missing or unknown key and a value of another type are one typed error that names the place."""
    value = report().as_json()
    damage(value)
    with pytest.raises(DataError, match=message):
        Report.from_json(value)


def test_report_read_names_the_file(tmp_path):
    """A file that is no report, and one that is not there."""
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(DataError, match=r"report\.json: the content is \[1\], expected an object"):
        Report.read(tmp_path / "report.json")
    with pytest.raises(LoraScratchError, match=r"none\.json: can't be read"):
        Report.read(tmp_path / "none.json")


def test_report_measures_the_linear_probe_if_there_is_one():
    """The same four figures as of the models."""
    assert report(probe_logits=ADAPTED).linear_probe == report().adapted


def test_report_without_training_says_so():
    """The key stays as null, so that a reader need not ask whether it is there."""
    assert report(train=None).as_json()["train"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(1.0)])
def test_report_refuses_what_json_has_no_form_for(value):
    """A throughput of infinity after 0 seconds is a defect to see here, not in a reader of the file."""
    with pytest.raises(ConfigError, match="report: not a JSON value"):
        report(train=replace(TRAIN, examples_per_second=value)).as_json()


def test_report_refuses_logits_of_other_rows():
    """A paired comparison needs the same rows."""
    with pytest.raises(DataError, match=r"logits \(7, 3\) and labels \(8,\)"):
        report(ADAPTED[:-1])


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
