"""scripts/combine.py: a sum is an ordinary adapter folder, and what can't be added up is one line."""

import json
import re
import shutil

import peft
import pytest
import torch
from support.command_line import call
from support.folders import save_base
from transformers import AutoModelForSequenceClassification

from lora_scratch.adapter import adapter_layers
from lora_scratch.commands import combine, evaluate, inspect_adapter
from lora_scratch.runs import open_adapter
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter, relative_error


def change(job, folder, *, head=0.0, **notes):
    """The job's adapter, moved on a little."""
    saved = open_adapter(job.adapter)
    move_adapter(saved.base.model, seed=1)
    saved.base.model.classifier.weight.data.add_(head)
    return save_adapter(saved.base.model, folder, base_model=saved.base.name, notes={**saved.provenance.as_json(), **notes})


@pytest.fixture(scope="module")
def other(job, tmp_path_factory):
    """A second adapter, with another head."""
    return change(job, tmp_path_factory.mktemp("other") / "adapter", head=0.1)


def deltas(folder):
    return {name: layer.delta_weight().detach() for name, layer in adapter_layers(open_adapter(folder).base.model).items()}


def test_a_mean_is_an_ordinary_adapter_folder(job, other, tmp_path, capsys):
    """ΔW is the mean, the scripts and PEFT read it, and its provenance says where it comes from."""
    place = tmp_path / "mean"
    assert call(combine, "--average", job.adapter, other, "--output", place) == 0
    one, two, mean = (deltas(folder) for folder in (job.adapter, other, place))
    for name, delta in mean.items():
        assert relative_error(delta, (one[name].double() + two[name].double()) / 2) < 1e-5
    assert call(inspect_adapter, place, "--verify", "--model", job.base) == 0
    assert call(evaluate, place, "--precision", "fp32") == 0
    base = AutoModelForSequenceClassification.from_pretrained(job.base, num_labels=6, ignore_mismatched_sizes=True)
    theirs = peft.PeftModel.from_pretrained(base, place).eval()
    ids, model = torch.tensor([[2, 5, 6, 3]]), open_adapter(place).base.model
    with torch.no_grad():
        assert relative_error(theirs(ids).logits, model(ids).logits.double()) < 1e-5
    told = json.loads((place / "provenance.json").read_text(encoding="utf-8"))["combined"]
    assert [(each["folder"], each["weight"]) for each in told["of"]] == [(str(job.adapter), 0.5), (str(other), 0.5)]
    assert (told["heads_from"], told["residual"]) == (None, 0)


def test_a_rank_loses_what_the_table_says(job, other, tmp_path, capsys):
    """Printed, written, and found again between the folders of the exact and the recompressed sum."""
    arguments = ["--add", job.adapter, other, "--weights", 2, -1.5, "--heads_from", other]
    assert call(combine, *arguments, "--output", tmp_path / "exact") == 0
    capsys.readouterr()
    assert call(combine, *arguments, "--output", tmp_path / "small", "--rank", 3, "--json", tmp_path / "table.json") == 0
    printed, table = capsys.readouterr().out, json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    exact, small = deltas(tmp_path / "exact"), deltas(tmp_path / "small")
    for row in table["modules"]:
        lost = (small[row["name"]] - exact[row["name"]]).norm() / exact[row["name"]].norm()
        assert row["residual"] == pytest.approx(lost.item(), rel=1e-4)
        assert row["norm"] == pytest.approx(exact[row["name"]].norm().item(), rel=1e-4)
        assert (row["rank"], row["exact_rank"]) == (3, 8)
        assert re.search(rf"^{row['name']} +3 +8 +{row['norm']:.4g} +{row['residual']:.2e}$", printed, re.MULTILINE)
    whole = sum(delta.norm().square() for delta in exact.values()).sqrt()
    lost = sum((small[name] - exact[name]).norm().square() for name in exact).sqrt()
    assert table["residual"] == pytest.approx((lost / whole).item(), rel=1e-4)
    head = open_adapter(tmp_path / "small").base.model.classifier.weight
    assert torch.equal(head, open_adapter(other).base.model.classifier.weight)
    told = json.loads((tmp_path / "small" / "provenance.json").read_text(encoding="utf-8"))["combined"]
    assert (told["heads_from"], told["residual"]) == (str(other), table["residual"])


def test_a_difference_with_itself_is_the_base_with_the_head(job, tmp_path):
    """Subtraction has weights 1 and −1; a head that both have is kept."""
    assert call(combine, "--subtract", job.adapter, job.adapter, "--rank", 1, "--output", tmp_path / "nothing") == 0
    assert all(delta.abs().max() < 1e-6 for delta in deltas(tmp_path / "nothing").values())
    head = open_adapter(tmp_path / "nothing").base.model.classifier.weight
    assert torch.equal(head, open_adapter(job.adapter).base.model.classifier.weight)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--add", "A", "B"], 1, r"error: heads: the heads differ and the weights sum to 2.*--heads_from"),
        (["--average", "A", "RENAMED"], 1, r"RENAMED: its labels are .*expected those of .*A, in their order.*--heads_from"),
        (["--average", "A", "NOWHERE"], 1, "error: .*NOWHERE"),
        (["--average", "A", "B", "--model", "OTHER"], 1, "the base model is not the one the adapter was trained on"),
        (["--add", "A", "--weights", "0"], 1, r"--weights: found 0\.0; expected finite numbers other than 0"),
        (["--add", "A", "B", "--weights", "1"], 2, "--weights: 1 for 2 adapters"),
        (["--average", "A", "B", "--weights", "1", "2"], 2, "--weights goes with --add"),
        (["--average", "A", "B", "--rank", "0"], 2, "--rank: found 0; expected at least 1"),
        (["--add", "A", "B", "--heads_from", "C"], 2, "--heads_from: .*C is none of"),
        (["--add", "A", "--average", "B"], 2, "not allowed with"),
        ([], 2, "one of the arguments --add --subtract --average is required"),
    ],
)
def test_what_can_not_be_added_up_is_one_line_and_writes_nothing(job, other, tmp_path, capsys, arguments, code, message):
    """Wrong usage is 2, anything else 1."""
    shutil.copytree(job.adapter, tmp_path / "A")
    shutil.copytree(other, tmp_path / "B")
    change(job, tmp_path / "RENAMED", labels=list("uvwxyz"))
    save_base(tmp_path / "OTHER", labels=("negative", "positive"), seed=1)
    capsys.readouterr()
    arguments = [tmp_path / each if each.isupper() else each for each in arguments]
    assert call(combine, *arguments, "--output", tmp_path / "sum") == code
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert not (tmp_path / "sum").exists()


def test_a_folder_with_files_is_not_written_over(job, capsys):
    """Not even with one of the terms of the sum."""
    assert call(combine, "--add", job.adapter, "--output", job.adapter) == 1
    assert "holds files already" in capsys.readouterr().err
