"""scripts/train.py --trainable: an adapter without its head, full fine-tuning, and what either leaves."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from support.command_line import call, train_arguments
from transformers import AutoModelForSequenceClassification

from lora_scratch.commands import train
from lora_scratch.errors import ConfigError
from lora_scratch.runs import RunOptions, read_logits


@pytest.fixture(scope="module")
def runs(job, tmp_path_factory):
    """A finished run of either kind."""
    place = tmp_path_factory.mktemp("trainable")
    for what in ("adapter", "all"):
        assert call(train, *train_arguments(job.base, job.data, place / what), "--trainable", what) == 0
    return place


def test_an_adapter_without_trained_head_carries_the_head_that_it_was_trained_with(runs):
    """PEFT on another copy of the base, whose own head is random, says the same."""
    run = runs / "adapter"
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["parameters"]["trainable"] == report["parameters"]["lora"]
    assert "not trained, but part of it: pre_classifier, classifier" in (run / "adapter" / "README.md").read_text(
        encoding="utf-8"
    )
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any("classifier" in name for name in tensors)
    base = json.loads((run / "config.json").read_text(encoding="utf-8"))["ModelOptions"]["model"]
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=6, ignore_mismatched_sizes=True)
        adapted = peft.PeftModel.from_pretrained(model, run / "adapter").eval()
        with torch.no_grad():
            answers.append(adapted(input_ids=torch.tensor([[2, 5, 7, 3]])).logits)
    assert torch.equal(*answers)


def test_full_fine_tuning_writes_a_model_that_transformers_reads(runs, job):
    """Best by validation; every tensor that takes part has moved; no adapter is there to be taken for one."""
    run = runs / "all"
    assert not (run / "adapter").exists()
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["parameters"]["trainable"] == report["parameters"]["total"]
    before = AutoModelForSequenceClassification.from_pretrained(job.base).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(run / "model").state_dict()
    same = [name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])]
    assert same == []
    page = (run / "report.html").read_text(encoding="utf-8")
    assert report["verdict"]["word"] in page


def test_full_fine_tuning_is_the_same_on_the_fast_path(job, tmp_path):
    """No padding, first tokens alone: the same logits to rounding after the same steps, without dropout."""
    for name in ("fast", "plain"):
        flags = ["--trainable", "all", "--learning_rate", 1e-4, "--plain", name == "plain"]
        assert call(train, *train_arguments(job.base, job.data, tmp_path / name), *flags) == 0
    fast, plain = (read_logits(tmp_path / name)["adapted"] for name in ("fast", "plain"))
    assert not torch.equal(fast, read_logits(tmp_path / "fast")["baseline"])
    torch.testing.assert_close(fast, plain, rtol=0, atol=2e-3)


def test_a_stopped_full_fine_tuning_goes_on_as_what_it_was(job, tmp_path, capsys):
    """The record says what is trained: another answer is refused."""
    run = tmp_path / "run"
    assert call(train, *train_arguments(job.base, job.data, run), "--trainable", "all", "--epochs", 1) == 0
    (run / "report.json").unlink()
    assert call(train, "--resume", run, "--trainable", "adapter") == 1
    assert "trainable is 'adapter', in the run 'all'" in capsys.readouterr().err
    assert call(train, "--resume", run) == 0
    assert (run / "report.json").exists()


def test_what_cannot_be_trained_is_refused_before_the_work(job, tmp_path, capsys):
    """Four-bit weights have no gradient; a shared-out base is a frozen one; an unknown word is listed against the known."""
    flags = [*train_arguments(job.base, job.data, tmp_path / "run"), "--trainable", "all"]
    assert call(train, *flags, "--base_precision", "nf4") == 1
    assert "--trainable all: with --base_precision nf4" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="--fsdp: with --trainable all"):
        RunOptions(trainable="all", fsdp=True)
    with pytest.raises(ConfigError, match=r"--trainable: found 'heads'; expected adapter_and_head or .* or bitfit"):
        RunOptions(trainable="heads")


@pytest.mark.parametrize("trainable", ["head", "bitfit"])
def test_a_head_or_biases_alone_write_a_model_that_transformers_reads(job, tmp_path, trainable):
    """No adapter; every frozen tensor has the bits of the base; a stopped run goes on."""
    run = tmp_path / "run"
    assert call(train, *train_arguments(job.base, job.data, run), "--trainable", trainable) == 0
    assert not (run / "adapter").exists()
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert 0 < report["parameters"]["trainable"] < report["parameters"]["total"] / 2
    before = AutoModelForSequenceClassification.from_pretrained(job.base).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(run / "model").state_dict()
    moved = {
        name for name in before if before[name].shape == after[name].shape and not torch.equal(before[name], after[name])
    }
    heads = ("pre_classifier.", "classifier.")
    assert moved
    assert all(name.startswith(heads) or (trainable == "bitfit" and name.endswith("bias")) for name in moved)
    (run / "report.json").unlink()
    assert call(train, "--resume", run) == 0
