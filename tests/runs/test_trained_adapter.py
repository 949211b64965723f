"""lora_scratch/runs/trained_adapter.py: a folder whose provenance is not that of a training run is refused."""

import json
import shutil
from dataclasses import fields

import pytest
from support.damage import reseal
from support.folders import save_base

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import AdapterFileError
from lora_scratch.runs import DataOptions, open_adapter, open_base
from lora_scratch.serialization import DataRecord, save_adapter


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """An adapter that another program has saved, with labels and nothing else."""
    place = tmp_path_factory.mktemp("saved")
    base = save_base(place / "base", labels=("a", "b"))
    model = inject(open_base(str(base), labels=("yes", "no")).model, LoRAConfig(rank=2))
    return save_adapter(model, place / "adapter", base_model=str(base), notes={"labels": ["yes", "no"]})


@pytest.mark.parametrize(
    "labels", ["yes", ["yes", "yes"], ["yes", None], [1, 2], {"yes": 0, "no": 1}, ["a", "b", ["c"]]], ids=str
)
def test_labels_that_are_no_names_are_refused(good, tmp_path, labels):
    """They say what the numbers mean: one twice, or none, and every answer is a guess."""
    folder = shutil.copytree(good, tmp_path / "adapter")
    reseal(folder, labels=labels)
    with pytest.raises(
        AdapterFileError, match=r"provenance\.json: labels(\[\d\])? is .*, expected (a list|a text|different names)"
    ):
        open_adapter(folder)


def test_a_base_that_has_no_name_is_refused(good, tmp_path):
    """Unless one is passed."""
    folder = shutil.copytree(good, tmp_path / "adapter")
    base = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["base"]
    reseal(folder, base={**base, "name": ""})
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(AdapterFileError, match="does not name the base model; name it with --model"):
        open_adapter(folder)
    assert open_adapter(folder, model=base["name"]).labels == ("yes", "no")


@pytest.mark.parametrize("data", [3, {"max_tokens": "9"}, {"max_tokens": True}], ids=str)
def test_a_note_of_another_type_is_named(good, tmp_path, data):
    """No KeyError for a folder that another program wrote."""
    folder = shutil.copytree(good, tmp_path / "adapter")
    reseal(folder, data=data)
    with pytest.raises(
        AdapterFileError, match=r"provenance\.json: data(\.max_tokens)? is .*, expected (a whole number|an object)"
    ):
        open_adapter(folder)


@pytest.mark.parametrize("data", [None, {}, {"max_tokens": None}], ids=str)
def test_a_note_that_is_missing_gets_a_default_that_is_said(good, tmp_path, capsys, data):
    """As many tokens as the base has positions for, and float32."""
    folder = shutil.copytree(good, tmp_path / "adapter")
    reseal(folder, data=data)
    saved = open_adapter(folder)
    assert (saved.max_tokens, saved.precision, saved.labels) == (64, "fp32", ("yes", "no"))
    message = "does not record all settings of its training; used: at most 64 tokens a text; precision fp32"
    assert message in capsys.readouterr().err


def test_every_option_of_the_rows_is_recorded_but_for_the_limits():
    """Else rows would be read in another way than in training, and nobody would be told. The task has its own entry."""
    assert {field.name for field in fields(DataOptions)} - {field.name for field in fields(DataRecord)} == {
        "limit_train",
        "limit_eval",
        "task",
    }


def test_a_folder_that_is_no_adapters_says_what_it_is_and_where_the_adapter_is(good, tmp_path):
    """A file of it, none at all, that of a run without an adapter yet, and that of a run."""
    run = tmp_path / "run"
    with pytest.raises(AdapterFileError, match=f"this is a file; .*that it lies in: {good}"):
        open_adapter(good / "adapter_config.json")
    with pytest.raises(AdapterFileError, match="no such folder; expected an adapter folder"):
        open_adapter(run)
    run.mkdir()
    (run / "metrics.jsonl").touch()
    with pytest.raises(AdapterFileError, match=f"this run has no adapter yet; .*--resume {run}"):
        open_adapter(run)
    (run / "model").mkdir()
    with pytest.raises(AdapterFileError, match=f"this run trained no adapter; .*{run / 'model'}: name it with --model"):
        open_adapter(run)
    shutil.copytree(good, run / "adapter")
    with pytest.raises(AdapterFileError, match=f"its adapter is {run / 'adapter'}"):
        open_adapter(run)
    assert open_adapter(run / "adapter").labels == ("yes", "no")
