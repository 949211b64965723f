"""lora_scratch/deploy/reload.py: another process reads what was written, and has to say what the model says."""

import json

import pytest
import safetensors.torch
import torch
from support.folders import save_base

from lora_scratch.deploy import reload, run_exported
from lora_scratch.deploy.formats import write_plain
from lora_scratch.deploy.reload import check_reloaded, probe_rows
from lora_scratch.errors import MergeError
from lora_scratch.runs import open_base
from lora_scratch.runtime import extras

CPU = torch.device("cpu")
START = reload.in_new_process


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A DistilBERT of two layers, plain."""
    return open_base(str(save_base(tmp_path_factory.mktemp("base"), labels=("a", "b", "c"))))


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Without a process of its own."""
    monkeypatch.setattr(reload, "in_new_process", run_exported.answer)


def read_again(base, folder, form="transformers", *, pairs=False):
    """The error of the logits."""
    rows = probe_rows(base, pairs=pairs)
    return check_reloaded(base, folder, form=form, rows=rows, tolerance=1e-4, device=CPU)


def damaged(base, folder, change):
    """A folder whose file `change` has changed."""
    write_plain(base, folder, form="transformers")
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.torture
def test_a_new_process_that_has_neither_this_project_nor_peft_reads_the_folder(base, tmp_path, monkeypatch):
    """A real one; with the same batches the logits have the same bits."""
    monkeypatch.setattr(reload, "in_new_process", START)
    write_plain(base, tmp_path, form="transformers")
    assert read_again(base, tmp_path) < 1e-6


@pytest.mark.torture
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("form", ["program", "onnx"])
def test_a_new_process_runs_the_other_formats(tmp_path, form, pairs, monkeypatch, base):
    """In batches of other shapes than the traced one, for pairs with token types."""
    if form == "onnx" and extras.missing_packages("onnx"):
        pytest.skip("the extra onnx is not installed")
    monkeypatch.setattr(reload, "in_new_process", START)
    write_plain(base, tmp_path, form=form, pairs=pairs)
    assert read_again(base, tmp_path, form, pairs=pairs) < 1e-5


def test_the_program_hides_this_project_and_peft(monkeypatch):
    """An import of either fails in it, though they are installed."""
    code = "from lora_scratch import LoRALinear"
    program = reload.PROGRAM.read_text(encoding="utf-8").replace("    settings = json.loads(line)\n", f"    {code}\n")
    monkeypatch.setattr(reload.subprocess, "run", started(program))
    with pytest.raises(MergeError, match=r"import of lora_scratch halted; None in sys\.modules"):
        START(b"{}\n")


def started(program):
    """subprocess.run of another text in place of the program."""
    run = reload.subprocess.run
    return lambda command, **how: run([*command[:2], "-c", program], **how)


@pytest.mark.parametrize("name", ["classifier.weight", "distilbert.transformer.layer.0.attention.v_lin.weight"])
def test_a_file_with_another_weight_is_refused(base, tmp_path, name):
    """Head or body."""
    folder = damaged(base, tmp_path, lambda tensors: tensors[name].neg_())
    with pytest.raises(
        MergeError, match=r"read again by a new process: a logit is off by .* of their rms; expected at most"
    ):
        read_again(base, folder)


def test_a_file_without_a_weight_is_refused(base, tmp_path):
    """transformers draws it at random, and only warns."""
    folder = damaged(base, tmp_path, lambda tensors: tensors.pop("classifier.weight"))
    with pytest.raises(MergeError, match="a logit is off by"):
        read_again(base, folder)


def test_a_tokenizer_that_reads_otherwise_is_refused(base, tmp_path):
    """The logits of the same tokens would be right."""
    write_plain(base, tmp_path, form="transformers")
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model"]["vocab"] = dict.fromkeys(settings["model"]["vocab"], 1)
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(MergeError, match="the tokenizer gives other tokens; nothing was written"):
        read_again(base, tmp_path)


def test_a_process_that_fails_is_one_line(tmp_path, monkeypatch):
    """The last one that it wrote."""
    request = {"folder": str(tmp_path), "form": "scroll", "inputs": ["x"], "texts": [], "paths": [], "device": "cpu"}
    monkeypatch.setitem(reload.OFFLINE, "PYTHONPATH", str(tmp_path))
    (tmp_path / "json.py").write_text("raise SystemExit('the environment is not ignored')")
    with pytest.raises(MergeError, match=r"read again by a new process: KeyError: 'scroll'; nothing was written"):
        START(json.dumps(request).encode() + b"\n" + safetensors.torch.save({}))
