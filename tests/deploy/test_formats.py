"""lora_scratch/deploy/formats.py: the written file, run without the model's code, says what the model says."""

from dataclasses import replace

import pytest
import torch
from support.families import tiny
from support.folders import save_base

from lora_scratch.deploy.formats import check_format, write_plain
from lora_scratch.errors import ConfigError, MergeError
from lora_scratch.runs import open_base
from lora_scratch.runtime import extras

SHAPES = [(1, 2), (1, 30), (4, 7)]  # none of those that are traced or checked on the way


def batch(rows, tokens):
    ids = torch.randint(5, 30, (rows, tokens), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(ids)
    mask[0, tokens // 2 + 1 :] = 0
    return ids, mask


def read(folder, form):
    """The file as its reader would run it."""
    if form == "program":
        return torch.export.load(folder / "model.pt2").module()
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda ids, mask: torch.from_numpy(
        session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A DistilBERT of two layers, plain."""
    return open_base(str(save_base(tmp_path_factory.mktemp("base"), labels=("a", "b", "c"))))


@pytest.mark.parametrize(("form", "family"), [("program", "distilbert"), ("program", "roberta"), ("onnx", "bert")])
def test_the_file_says_what_the_model_says_for_any_number_of_rows_and_tokens(base, tmp_path, family, form):
    """Padding too; the tokenizer and the labels lie beside it."""
    if form == "onnx" and extras.missing_packages("onnx"):
        pytest.skip("the extra onnx is not installed")
    model = tiny(family).eval()
    write_plain(replace(base, model=model), tmp_path, form=form)
    run = read(tmp_path, form)
    for rows, tokens in SHAPES:
        ids, mask = batch(rows, tokens)
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(run(ids, mask), expected, rtol=1e-4, atol=1e-5)
    assert {"config.json", "tokenizer.json"} <= {file.name for file in tmp_path.iterdir()}


def test_a_model_that_cannot_be_traced_is_said_so_in_one_line(base, tmp_path, monkeypatch):
    """torch.export's own message is pages long."""

    def branching(input_ids, attention_mask):
        return 1 if input_ids.sum().item() > 3 else 2

    monkeypatch.setattr(base.model, "forward", branching)
    with pytest.raises(MergeError, match=r"--format: DistilBertForSequenceClassification can't be traced") as caught:
        write_plain(base, tmp_path, form="program")
    assert "\n" not in str(caught.value)


def test_onnx_is_refused_before_the_work_where_it_cannot_be(monkeypatch):
    """Its runtime has few kernels for narrow numbers on a CPU; its packages are an extra."""
    check_format("program", dtype="bfloat16")
    with pytest.raises(ConfigError, match="--format onnx: with --dtype bfloat16; expected --dtype float32"):
        check_format("onnx", dtype="bfloat16")
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"onnxscript not installed; pip install .lora-scratch\[onnx\]"):
        check_format("onnx", dtype="float32")
