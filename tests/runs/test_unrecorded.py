"""lora_scratch/runs/unrecorded.py: folders that PEFT wrote, or a training loop of one's own, work in the commands."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import peft
import pytest
import torch
from support.command_line import call
from support.folders import save_base
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.commands import combine, evaluate, inspect_adapter, predict
from lora_scratch.errors import AdapterFileError, ConfigError
from lora_scratch.runs import open_adapter
from lora_scratch.serialization import save_adapter

TEXTS = ["i am so happy today", "it leaves me gleeful"]


@dataclass(frozen=True)
class Peer:
    """A folder that PEFT wrote, and what PEFT answers with it."""

    base: Path
    adapter: Path
    logits: torch.Tensor


def write_with_peft(place: Path, *, labels: int, head: bool = True) -> Peer:
    """Train nothing: draw every trained tensor of a PEFT model, and save it as users do."""
    base = save_base(place / "base", labels=("negative", "positive"))
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, ignore_mismatched_sizes=True)
    kind = "SEQ_CLS" if head else None
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type=kind, r=4, target_modules=["q_lin", "v_lin"])).eval()
    torch.manual_seed(3)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(place / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        logits = [wrapped(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    return Peer(base, place / "adapter", torch.cat(logits))


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Peer:
    """Three outputs, where the base's config names two labels."""
    return write_with_peft(tmp_path_factory.mktemp("three"), labels=3)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Peer:
    """Two outputs, as the base's config names labels."""
    return write_with_peft(tmp_path_factory.mktemp("two"), labels=2)


def rows_of(capsys) -> list[dict[str, object]]:
    """What the command wrote to standard output."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def scores(rows) -> torch.Tensor:
    """The probabilities of all rows."""
    return torch.tensor([list(row["scores"].values()) for row in rows])


def test_predict_answers_as_peft_does(three, capsys):
    """The same probabilities within the rounding of float32, under the labels of the flag."""
    arguments = [three.adapter, *TEXTS, "--precision", "fp32", "--labels", "a", "b", "c"]
    assert call(predict, *arguments) == 0
    rows = rows_of(capsys)
    assert [*rows[0]["scores"]] == ["a", "b", "c"]
    assert (scores(rows) - three.logits.softmax(-1)).abs().max() < 2e-6


def test_logits_are_pefts_within_rounding(three):
    """Not only their order."""
    saved = open_adapter(three.adapter, labels=["a", "b", "c"])
    with torch.no_grad():
        batches = [saved.base.tokenizer(text, return_tensors="pt") for text in TEXTS]
        logits = torch.cat([saved.base.model(**batch).logits for batch in batches])
    assert (logits - three.logits).abs().max() / three.logits.square().mean().sqrt() < 1e-5


def test_labels_of_the_base_are_used_and_said(two, capsys):
    """Where there are as many as the head has outputs."""
    assert call(predict, two.adapter, *TEXTS, "--precision", "fp32") == 0
    captured = capsys.readouterr()
    assert "the labels of the base's config (negative, positive), task single_label" in captured.err
    assert "at most 64 tokens a text; precision fp32" in captured.err
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [*rows[0]["scores"]] == ["negative", "positive"]
    assert (scores(rows) - two.logits.softmax(-1)).abs().max() < 2e-6


def test_labels_rename_a_head_that_stays_in_the_base(tmp_path):
    """A folder without a head is for the base's own, whatever its outputs are called."""
    peer = write_with_peft(tmp_path, labels=2, head=False)
    saved = open_adapter(peer.adapter, labels=["bad", "good"])
    batch = saved.base.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(saved.base.model(**batch).logits, peer.logits[:1], atol=1e-6)
    assert saved.labels == ("bad", "good")
    assert saved.base.model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "its head has 3 outputs, and the base's config names 2: negative, positive; pass the 3 labels"),
        (["--labels", "a", "b"], "its head has 3 outputs, and --labels names 2: a, b; pass the 3 labels"),
        (["--labels", "a", "b", "a"], "--labels: found a b a; expected different names"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(three, capsys, flags, message):
    """And no traceback."""
    assert call(predict, three.adapter, *TEXTS, *flags) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_base_that_no_one_names_is_one_line(three, tmp_path, capsys):
    """PEFT writes null where the model was built from a config."""
    folder = shutil.copytree(three.adapter, tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    assert call(predict, folder, *TEXTS, "--labels", "a", "b", "c") == 1
    assert "adapter_config.json does not name the base model; name it with --model" in capsys.readouterr().err
    assert call(predict, folder, *TEXTS, "--labels", "a", "b", "c", "--model", three.base) == 0


def test_other_labels_than_the_recorded_ones_are_refused(two, tmp_path):
    """A name that was recorded is right; the flag is for folders that record none."""
    saved = open_adapter(two.adapter, labels=["bad", "good"])
    folder = save_adapter(saved.base.model, tmp_path / "named", base_model=str(two.base), notes={"labels": ["bad", "good"]})
    assert open_adapter(folder, labels=["bad", "good"]).labels == ("bad", "good")
    with pytest.raises(ConfigError, match="--labels: found good bad; expected the adapter's own: bad good"):
        open_adapter(folder, labels=["good", "bad"])


def test_folder_of_a_loop_of_ones_own_is_opened(tmp_path, capsys):
    """`save_adapter` without notes records the base alone."""
    base = save_base(tmp_path / "base", labels=("negative", "positive"))
    model = inject(AutoModelForSequenceClassification.from_pretrained(base), LoRAConfig(rank=2))
    folder = save_adapter(model, tmp_path / "adapter", base_model=str(base))
    assert open_adapter(folder).labels == ("negative", "positive")
    assert "the labels of the base's config (negative, positive)" in capsys.readouterr().err


def test_evaluate_needs_rows_and_measures_them(three, tmp_path, capsys):
    """The folder does not say which rows it was trained with."""
    labels = ["--labels", "a", "b", "c"]
    assert call(evaluate, three.adapter, *labels) == 1
    assert "it does not record the rows of its training; name rows with --dataset" in capsys.readouterr().err
    rows = [f"i am number {number} today,{'abc'[number % 3]}" for number in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    assert call(evaluate, three.adapter, *labels, "--dataset", tmp_path / "rows.csv") == 0


def test_what_is_made_from_the_folder_has_its_labels(three, tmp_path, capsys):
    """Named once, recorded from then on."""
    arguments = ["--add", three.adapter, "--labels", "a", "b", "c", "--output", tmp_path / "sum"]
    assert call(combine, *arguments) == 0
    assert open_adapter(tmp_path / "sum").labels == ("a", "b", "c")


def test_verify_compares_with_the_base(three, capsys):
    """With the labels of the flag."""
    assert call(inspect_adapter, three.adapter, "--verify", "--model", three.base, "--labels", "a", "b", "c") == 0
    assert "nothing wrong with the files, nor with its fit" in capsys.readouterr().out


def test_folder_that_is_no_adapter_says_which_file_is_missing(two):
    """A merged model, for example."""
    with pytest.raises(AdapterFileError, match=re.escape("adapter_config.json: can't be read")):
        open_adapter(two.base)
