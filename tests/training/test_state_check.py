"""lora_scratch/training/state_check.py: a checkpoint whose digests were made to match is checked value by value."""

import json

import pytest
import torch
from safetensors.torch import load_file, save
from support.alarm import no_hang
from support.families import record
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import CheckpointError
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train
from lora_scratch.training.checkpoint import TENSORS, VALUES, _digests


def adapted():
    return inject(tiny_distilbert(), LoRAConfig(rank=2, alpha=4, dropout=0.0))


def resumed(model, place):
    """Two epochs of two steps; a checkpoint after each epoch."""
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, precision="fp32", device="cpu")
    log, checkpoints = MetricsLog(place / "metrics.jsonl"), Checkpoints(place / "state", keep=1)
    rows, quiet = (tiny_rows(16), tiny_rows(8, seed=1)), {"pad_token_id": 0, "show_progress": False}
    return train(model, *rows, config, log=log, checkpoints=checkpoints, **quiet)


@pytest.fixture
def checkpoint(tmp_path):
    """The last checkpoint of a run."""
    resumed(adapted(), tmp_path)
    (folder,) = (tmp_path / "state").iterdir()
    return folder


def write(folder, *, values=None, tensors=None):
    """Write changed values and tensors, with digests to match."""
    document = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    stored = {**load_file(folder / TENSORS), **(tensors or {})}
    content = save({name: tensor for name, tensor in stored.items() if tensor is not None})
    changed = {**document["values"], **(values or {})}
    (folder / TENSORS).write_bytes(content)
    (folder / VALUES).write_text(json.dumps({"format": 1, "sha256": _digests(content, changed), "values": changed}))


def refused(folder, match):
    """Resuming is one line, soon, and the model is as it was."""
    model, before = adapted(), record(adapted())
    with no_hang(), pytest.raises(CheckpointError, match=match):
        resumed(model, folder.parent.parent)
    assert record(model) == before


def test_a_whole_checkpoint_is_loaded(checkpoint):
    """The twin of the tests below."""
    write(checkpoint)
    assert resumed(adapted(), checkpoint.parent.parent).steps == 4


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("epoch", 3, "epoch is 3, expected 2"),  # the loop ends at epoch 2, and would never end
        ("epoch", "2", "epoch is '2', expected a whole number"),
        ("stepper/step", 5, "stepper.step is 5, expected at most 4"),
        ("stepper/step", 10**30, "stepper.step is 10+"),
        ("stepper/pieces", 0, "stepper.pieces is 0"),
        ("examples", -1, "examples is -1"),
        ("seconds", "nan", "seconds is 'nan'"),
        ("best", None, "best is None after the validation of the last step"),
        ("best", {"pearson": 1.0}, "best has unknown keys 'pearson'; best.loss is missing|best.accuracy is missing"),
        ("best_step", 9, "best_step is 9, expected at most 4"),
        ("log_bytes", 2**70, "log_bytes is"),
        ("path", {"onednn": "yes"}, "path.onednn is 'yes', expected true or false"),
        ("path", {"other": True}, "path has unknown keys 'other'"),
        ("random/python", [3, [1], None], "python is no state of 625 words"),
        ("random/python", None, "python is None"),
        ("model/extra", 1, "model/extra|extra is not trained here"),
    ],
)
def test_a_value_of_another_type_or_range_is_one_line(checkpoint, name, value, match):
    """Before anything is loaded."""
    write(checkpoint, values={name: value})
    refused(checkpoint, match)


def test_the_position_in_numpys_words_stays_within_them(checkpoint):
    """NumPy does not check it, and would read there."""
    state = json.loads((checkpoint / VALUES).read_text(encoding="utf-8"))["values"]["random/numpy"]
    state["state"]["pos"] = 10**6
    write(checkpoint, values={"random/numpy": state})
    refused(checkpoint, "numpy.state.pos is 1000000, expected a number from 0 to 624")


@pytest.mark.parametrize(
    ("prefix", "tensor", "match"),
    [
        ("model/", None, "is not in it"),
        ("model/", torch.zeros(3, 3), "has shape"),
        ("best_tensors/", torch.zeros(3, 3), "has shape"),
        ("stepper/", None, "is not in it"),
        ("random/torch", torch.zeros(3, dtype=torch.uint8), "torch is no state"),
    ],
)
def test_a_tensor_that_is_gone_or_of_another_shape_is_one_line(checkpoint, prefix, tensor, match):
    """Of the model, of the best one, of the optimizer, of the generators."""
    name = next(name for name in sorted(load_file(checkpoint / TENSORS)) if name.startswith(prefix))
    write(checkpoint, tensors={name: tensor})
    refused(checkpoint, match)


def test_a_name_among_tensors_and_values_is_refused(checkpoint):
    """One would hide the other."""
    write(checkpoint, tensors={"epoch": torch.ones(())})
    refused(checkpoint, r"is no checkpoint \(epoch is there twice\)")
