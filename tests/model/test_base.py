"""lora_scratch/model/base.py: the base comes from where it says, and only its head is ever new."""

import json
import shutil

import pytest
import torch
from support.folders import save_base

from lora_scratch.errors import ModelError
from lora_scratch.model.base import load_base
from lora_scratch.model.checks import check_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved base with a head for `negative` and `positive`."""
    return save_base(tmp_path_factory.mktemp("base"), labels=("negative", "positive"))


def test_base_keeps_its_head_for_its_own_labels(folder):
    """Nothing is drawn anew when the label set is the same."""
    base = load_base(str(folder), labels=("negative", "positive"))
    assert base.newly_initialized == ()
    assert not base.model.training


def test_base_opened_without_gradients_can_be_trained(folder):
    """Also under `torch.inference_mode()`: its tensors are ordinary ones."""
    with torch.inference_mode():
        model = check_base(load_base(str(folder))).model
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([0])).loss.backward()
    assert model.classifier.weight.grad is not None


@pytest.mark.parametrize("labels", [("a", "b", "c", "d"), ("up", "down")], ids=["another number", "other names"])
def test_base_gets_a_fresh_output_layer_for_other_labels_and_nothing_else(folder, labels):
    """Another number of labels, or as many with other names: the old output layer would mean something else."""
    own = load_base(str(folder), labels=("negative", "positive")).model.state_dict()
    base = load_base(str(folder), labels=labels)
    assert base.newly_initialized == ("classifier.bias", "classifier.weight")
    assert base.model.config.id2label == dict(enumerate(labels))
    for name, tensor in base.model.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(tensor, own[name])
    assert base.model.classifier.bias.abs().max() == 0
    assert 0.01 < base.model.classifier.weight.std() < 0.03  # initializer_range is 0.02


def test_fresh_head_depends_on_the_seed_alone(folder):
    """The same seed gives the same head whatever was drawn before."""
    first = load_base(str(folder), labels="abc", seed=5).model.classifier.weight
    torch.randn(7)
    assert torch.equal(first, load_base(str(folder), labels="abc", seed=5).model.classifier.weight)
    assert not torch.equal(first, load_base(str(folder), labels="abc", seed=6).model.classifier.weight)


def test_base_is_loaded_in_the_dtype_asked_for(folder):
    """The stored weights are rounded once."""
    assert load_base(str(folder), labels="abc", dtype=torch.bfloat16).model.dtype is torch.bfloat16


def test_a_name_that_is_no_folder_and_no_hub_model_is_one_clear_line(tmp_path, monkeypatch):
    """What could not be had, and what to pass instead."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ModelError, match=r"no/such-model: .* could not be fetched from the hub; pass --model FOLDER"
    ) as caught:
        load_base("no/such-model", labels="ab")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "models/of/mine"])
def test_a_path_that_is_no_folder_is_said_so_without_asking_the_hub(name):
    """No name on the hub looks like this."""
    with pytest.raises(ModelError, match=f"^{name}: no such folder; expected a folder, or owner/name on the hub"):
        load_base(name, labels="ab")


def test_a_folder_without_a_model_says_what_belongs_there(tmp_path):
    """An empty folder is no model."""
    with pytest.raises(ModelError, match=r"no sequence classifier could be loaded .*; expected a folder with config.json"):
        load_base(str(tmp_path), labels="ab")


def test_pickled_weights_are_never_read(folder, tmp_path):
    """A folder with pytorch_model.bin alone is refused: unpickling runs code."""
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no sequence classifier could be loaded"):
        load_base(str(tmp_path), labels="ab")


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(folder, tmp_path, monkeypatch):
    """Left open, transformers would ask on the terminal, and run the folder's code at a y."""
    place = shutil.copytree(folder, tmp_path / "own_code")
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "own.py").write_text("raise SystemExit('this code ran')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    with pytest.raises(ModelError, match="no sequence classifier could be loaded"):
        load_base(str(place), labels="ab")


def test_no_name_is_no_folder():
    """An empty one would be the folder that the command stands in."""
    with pytest.raises(ModelError, match="--model: no model is named"):
        load_base("", labels="ab")


def changed(folder, place, **settings):
    """A copy whose config.json has other settings."""
    shutil.copytree(folder, place)
    fields = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").write_text(json.dumps(fields | settings))
    return str(place)


@pytest.mark.parametrize("std", [float("nan"), -1.0, float("inf")])
def test_a_spread_of_the_fresh_head_that_is_none_is_one_line(folder, tmp_path, std):
    """From a config.json of others."""
    with pytest.raises(
        ModelError,
        match=rf"initializer_range is {std}; expected a number from 0|no sequence classifier could be loaded \(normal",
    ):
        load_base(changed(folder, tmp_path / "base", initializer_range=std), labels=("x", "y", "z"))


def test_a_base_that_computes_in_chunks_computes_rows_of_any_length(folder, tmp_path):
    """The size of a chunk changes no number, and a row that is no multiple of it was an error."""
    ids = {"input_ids": torch.tensor([[2, 11, 12, 13, 3]])}
    whole, chunked = (
        load_base(str(place)).model(**ids).logits
        for place in (folder, changed(folder, tmp_path / "base", chunk_size_feed_forward=3))
    )
    assert torch.equal(whole, chunked)
