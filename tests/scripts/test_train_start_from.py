"""scripts/train.py --start_from: a new task on a trained adapter."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import call, train_arguments
from support.folders import save_base

from lora_scratch.commands import train
from lora_scratch.errors import ConfigError
from lora_scratch.runs import open_base, open_start

LABELS = ("anger", "fear", "joy", "love", "sadness", "surprise")
STILL = ["--learning_rate", 1e-6, "--weight_decay", 0, "--epochs", 1]  # what is saved is nearly what the run began with


@pytest.fixture
def two_labels(job, tmp_path):
    """The same texts with labels of another task."""
    folder = tmp_path / "two"
    folder.mkdir()
    for path in job.data.iterdir():
        lines = [line.rpartition(";")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [f"{text};{('even', 'odd')[number % 2]}" for number, text in enumerate(lines)]
        (folder / path.name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def started(job, data, run, *flags):
    return call(train, *train_arguments(job.base, data, run), "--start_from", job.adapter, *flags)


def saved(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def still(tensors, others, part):
    return all(torch.allclose(tensor, others[name], atol=1e-5) for name, tensor in tensors.items() if part in name)


def test_a_and_b_are_the_adapters_and_the_head_is_kept_if_the_labels_are_equal(job, tmp_path, capsys):
    """The run begins with every tensor of the adapter, and records where they came from."""
    run = tmp_path / "run"
    assert started(job, job.data, run, *STILL, "--rank", 2) == 0
    old, new = saved(job.run), saved(run)
    assert old.keys() == new.keys()
    assert still(new, old, "")
    assert "A and B, and its head; --rank and other adapter flags have no effect" in capsys.readouterr().out
    record = json.loads((run / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    source = json.loads((job.adapter / "provenance.json").read_text(encoding="utf-8"))
    assert record["start_from"]["adapter_sha256"] == source["adapter_sha256"]
    assert record["config"]["rank"] == 4


def test_the_head_starts_new_if_the_labels_differ(job, two_labels, tmp_path, capsys):
    """A and B stay; the report's baseline is the frozen base, as always."""
    run = tmp_path / "run"
    assert started(job, two_labels, run, *STILL) == 0
    old, new = saved(job.run), saved(run)
    assert still(new, old, "lora_")
    assert new["base_model.model.classifier.weight"].shape == (2, 32)
    assert "the head starts new, since the labels differ" in capsys.readouterr().out


def test_outputs_of_a_kept_head_follow_their_labels(job):
    """The new task may have the labels in another order."""
    order = LABELS[::-1]
    start = open_start(
        job.adapter, open_base(str(job.base), labels=order), trainable="adapter_and_head", base_precision="full"
    )
    weight = "base_model.model.classifier.weight"
    assert torch.equal(start.tensors[weight], saved(job.run)[weight].flip(0))


def test_a_resumed_run_has_the_bits_of_one_that_was_never_stopped(job, two_labels, tmp_path, capsys):
    """Also from a checkpoint in the middle; another adapter in the same place is refused."""
    run, again, source = tmp_path / "run", tmp_path / "again", tmp_path / "source"
    shutil.copytree(job.adapter, source)
    flags = ["--start_from", source, "--save_steps", 3, "--keep", 9]
    assert call(train, *train_arguments(job.base, two_labels, run), *flags) == 0
    shutil.copytree(run, again)
    for path in ("report.json", "state/step_000008", "state/step_000006"):
        place = again / path
        shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
    assert call(train, "--resume", again) == 0
    assert all(torch.equal(tensor, saved(run)[name]) for name, tensor in saved(again).items())
    (again / "report.json").unlink()
    shutil.rmtree(source)
    shutil.copytree(run / "adapter", source)
    capsys.readouterr()
    assert call(train, "--resume", again) == 1
    assert "start_from" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(job, tmp_path, capsys):
    """Another base, no adapter to train, another precision of the base: one line each."""
    other = save_base(tmp_path / "other", labels=("negative", "positive"), seed=7)
    assert call(train, *train_arguments(other, job.data, tmp_path / "run"), "--start_from", job.adapter) == 1
    assert "the base model is not the one the adapter was trained on" in capsys.readouterr().err
    base = open_base(str(job.base), labels=LABELS)
    with pytest.raises(ConfigError, match="--start_from: with --trainable head"):
        open_start(job.adapter, base, trainable="head", base_precision="full")
    with pytest.raises(ConfigError, match="trained on a base in precision full; use --base_precision full"):
        open_start(job.adapter, base, trainable="adapter", base_precision="nf4")
    assert not (tmp_path / "run").exists()
