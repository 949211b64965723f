"""lora_scratch/study/methods.py: a method, the folder of its run, and the result that is read."""

import json

import pytest
import torch
from support.report_pages import report

from lora_scratch.adapter.state import ParameterCount
from lora_scratch.errors import DataError
from lora_scratch.evaluation import ProbeCost, TrainingCost
from lora_scratch.runs.logits import write_logits
from lora_scratch.study.methods import DEFAULT_METHODS, METHODS, Run, read_run_result

LABELS = torch.tensor([0, 1, 2, 1])
SAID = {"baseline": [0, 0, 0, 0], "probe": [0, 1, 0, 0], "adapted": [0, 1, 2, 0]}  # 1, 2 and 3 of 4 right
REPORT = report(
    probe=ProbeCost(cpu_seconds=7.0, parameters=12),
    parameters=ParameterCount(total=1000, trainable=99, lora=50, head=49),
    train=TrainingCost(20.0, 30.0, 100, 100, 5.0, 1000),
)


@pytest.fixture
def folder(tmp_path):
    """A comparison with one run of LoRA and one of full fine-tuning."""
    for method, kind, size in (("lora", "adapter", 50), ("full", "model", 400)):
        place = Run(method, 0).place(tmp_path)
        (place / kind).mkdir(parents=True)
        (place / kind / "x.safetensors").write_bytes(bytes(size))
        (place / "report.json").write_text(json.dumps(REPORT.as_json()))
        answers = {name: torch.eye(3)[torch.tensor(said)] for name, said in SAID.items()}
        write_logits(place, labels=LABELS, **answers)
    return tmp_path


@pytest.mark.parametrize(
    ("method", "accuracy", "trained", "size", "cpu"),
    [
        ("untrained", 0.25, 0, None, None),
        ("probe", 0.5, 12, None, 7.0),
        ("lora", 0.75, 99, 50, 30.0),
        ("full", 0.75, 99, 400, 30.0),
    ],
)
def test_a_result_has_the_accuracy_and_the_costs_of_its_own_model(folder, method, accuracy, trained, size, cpu):
    """Untrained and probe are measured on the run of `lora`, and cost none of its training."""
    result = read_run_result(Run(method, 0), folder)
    assert result.metrics.accuracy == accuracy
    assert (result.trained, result.file_bytes, result.cpu_seconds) == (trained, size, cpu)
    assert result.labels.tolist() == LABELS.tolist()


def test_a_result_leaves_the_rows_behind(folder):
    """comparison.json is to be shared; the data set may not be."""
    found = read_run_result(Run("lora", 0), folder).as_json()
    assert found.keys() & {"logits", "labels"} == set()
    assert (found["rung"], found["seed"], found["accuracy"], found["n"]) == ("lora", 0, 0.75, 4)


def test_a_run_without_its_logits_is_named(folder):
    """A folder that somebody tidied up."""
    (Run("lora", 0).place(folder) / "logits.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"lora/seed-0/logits\.safetensors: can't be read .*train it again"):
        read_run_result(Run("lora", 0), folder)


def test_a_run_has_a_folder_and_flags(tmp_path):
    """A number of rows is a folder between method and seed, and a flag."""
    assert Run("dora", 3).place(tmp_path) == tmp_path / "dora" / "seed-3"
    assert Run("probe", 1, 500).place(tmp_path) == tmp_path / "lora" / "rows-500" / "seed-1"
    assert Run("probe", 1, 500).flags() == Run("lora", 1, 500).flags()
    assert Run("lora", 1, 500).flags() == ["--linear_probe", "true", "--seed", "1", "--limit_train", "500"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_meaning_and_a_training(method):
    """--help lists them; a method without a training names one that has it."""
    assert METHODS[method].meaning
    assert METHODS[Run(method, 0).trained_method].measured_on is None


def test_the_default_methods_go_from_nothing_to_everything():
    """The order of the table."""
    assert (DEFAULT_METHODS[0], DEFAULT_METHODS[1], DEFAULT_METHODS[-1]) == ("untrained", "probe", "full")
