"""lora_scratch/runs/card_metadata.py: huggingface_hub's own reader finds in a card what the run knows."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import ModelCard

from lora_scratch.adapter import LoRAConfig
from lora_scratch.adapter.state import ParameterCount
from lora_scratch.evaluation import Report
from lora_scratch.runs import model_card
from lora_scratch.runs.card_metadata import EXAMPLE, hub_dataset, hub_model, is_hub_name, with_metadata
from lora_scratch.serialization import DataRecord, Provenance
from lora_scratch.serialization.provenance import BaseRecord, TrainingRecord
from lora_scratch.tasks import make_task

ROWS = {
    "single_label": (("no", "yes"), torch.randn(30, 2), torch.arange(30) % 2),
    "multi_label": (("red", "green"), torch.randn(30, 2), (torch.arange(60) % 3 == 0).float().reshape(30, 2)),
    "regression": (("stars",), torch.randn(30, 1), torch.arange(30) / 10),
}
TYPES = {
    "single_label": ["accuracy", "f1", "matthews_correlation", "f1", "loss"],
    "multi_label": ["f1", "f1", "exact_match", "mean_average_precision", "loss"],
    "regression": ["pearsonr", "spearmanr", "mae", "mse"],
}


def card_of(task="single_label", *, base="owner/base", source="owner/data", pair=None, **settings):
    """Return the card of a run as huggingface_hub reads it, and its report."""
    labels, logits, truth = ROWS[task]
    made = make_task(task, labels)
    counts = ParameterCount(total=1000, trainable=80, lora=50, head=30)
    report = Report.compare(-logits, logits, truth, task=made, parameters=counts, command="train")
    data = DataRecord(source=source, dataset=source, pair_column=pair)
    record = Provenance(
        base=BaseRecord(base, {}), labels=labels, task=task, data=data, training=TrainingRecord(1, 8, 0.1, "fp32", 0)
    )
    return ModelCard(model_card(record, LoRAConfig(targets=["q"], head_modules=["h"]), report, **settings)), report


@pytest.mark.parametrize("task", ROWS)
def test_every_score_of_every_task_is_a_result_of_the_model_index(task):
    """With the name of the metric that others use, and the value of the report."""
    card, report = card_of(task)
    results = card.data.eval_results
    assert [result.metric_value for result in results] == [round(value, 6) for value in report.adapted.shown.values()]
    assert [result.metric_type for result in results] == TYPES[task]
    for result in results:
        assert (result.task_type, result.dataset_type, result.dataset_name) == ("text-classification", *["owner/data"] * 2)
        assert (result.dataset_split, result.dataset_config, result.dataset_args) == ("test", None, {"rows": 30})
    names = {(result.metric_type, result.metric_name) for result in results}
    assert len(names) == len(results)


def test_a_card_names_base_data_library_and_an_example():
    """What the hub's filters and its page read."""
    data = card_of(source="nyu-mll/glue:mrpc")[0].data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("owner/base", "peft", "text-classification")
    assert (data.datasets, data.widget) == (["nyu-mll/glue"], [{"text": EXAMPLE}])
    assert {(result.dataset_type, result.dataset_config) for result in data.eval_results} == {("nyu-mll/glue", "mrpc")}
    assert data.get("license") is None
    assert data.get("language") is None
    assert "lora" in data.tags


def test_local_rows_and_a_local_base_are_no_names_of_the_hub(tmp_path):
    """A folder of this machine says nothing to others, and can say too much: only its last part is shown."""
    folder, rows = tmp_path / "secret" / "base", tmp_path / "secret" / "mails.csv"
    folder.mkdir(parents=True)
    rows.touch()
    data = card_of(base=str(folder), source=str(rows), test_split="")[0].data
    assert data.get("base_model") is None
    assert data.get("datasets") is None
    assert "secret" not in str(data)
    named = {(result.dataset_type, result.dataset_name, result.dataset_split) for result in data.eval_results}
    assert named == {("custom", "mails.csv, held-out rows", None)}


def test_what_the_data_set_calls_the_measured_rows_is_the_split():
    """Where the test has no labels, the validation rows are measured, and the card must not say test."""
    card, _ = card_of(test_split="validation_matched")
    assert {result.dataset_split for result in card.data.eval_results} == {"validation_matched"}


def test_pairs_have_no_example():
    """The hub's page has a field for one text."""
    assert card_of(pair="second")[0].data.get("widget") is None


def test_the_base_of_a_folder_is_what_the_hubs_cache_or_its_config_says(tmp_path):
    """Never the folder itself."""
    cached = tmp_path / "models--owner--base" / "snapshots" / "0123"
    cached.mkdir(parents=True)
    assert hub_model(str(cached)) == "owner/base"
    for recorded, expected in [
        ("owner/base", "owner/base"),
        (str(cached), None),
        ("/gone/base", None),
        ("out/checkpoint-500", None),
        ("a/b/c", None),
        (7, None),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": recorded}))
        assert hub_model(str(tmp_path)) == expected
    (tmp_path / "config.json").write_text("[")
    assert hub_model(str(tmp_path)) is None
    assert hub_model("demo") is None


@pytest.mark.parametrize("name", ["", "demo", "a/b/c", "x y", "../data", "a\0b"])
def test_what_is_no_name_of_the_hub_is_no_data_set_of_it(name):
    """A path, the demo, or nothing."""
    assert hub_dataset(name) == (None, None)


def test_metadata_are_replaced_in_place():
    """Entries of others stay, an entry of None goes, the text below stays byte for byte."""
    card = "---\r\nbase_model: /x\r\nother: [1]\r\nmodel-index: [{name: a, results: []}]\r\n---\n# T\n---\nx: y\n---\n"
    changed = with_metadata(card, model_name="b", base_model=None, license="mit")
    expected = "---\nother:\n- 1\nmodel-index:\n- name: b\n  results: []\nlicense: mit\n---\n# T\n---\nx: y\n---\n"
    assert changed == expected
    with pytest.raises(ValueError, match="no mapping"):
        with_metadata("---\n- a\n---\n")
    assert with_metadata("---\n---\ntext") == "text"
    assert is_hub_name("bert-base-uncased")
