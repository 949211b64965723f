import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import tiny

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.serialization import problems_in_folder, save_adapter

WEIGHTS, CONFIG, PROVENANCE = "adapter_model.safetensors", "adapter_config.json", "provenance.json"
Q0 = "base_model.model.distilbert.transformer.layer.0.attention.q_lin"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One saved folder, to be copied and damaged."""
    model = inject(tiny("distilbert"), LoRAConfig(rank=4, alpha=6), seed=0)
    return save_adapter(model, tmp_path_factory.mktemp("good") / "adapter", base_model="tiny/base")


@pytest.fixture
def folder(good, tmp_path):
    """A copy of it."""
    return shutil.copytree(good, tmp_path / "adapter")


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("distilbert", {}),
        ("distilbert", {"variant": "dora"}),
        ("distilbert", {"init": "pissa", "rank_pattern": {"k_lin": 2}}),
        ("distilbert", {"targets": ["word_embeddings", "q_lin"], "bias": "all"}),
        ("gpt2", {"targets": ["c_attn"]}),
    ],
)
def test_a_whole_folder_has_no_problems(tmp_path, family, options):
    """What save_adapter wrote, and the same without provenance.json, as from PEFT."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6} | options), seed=0)
    place = save_adapter(model, tmp_path / "adapter", base_model="tiny/base")
    assert problems_in_folder(place) == []
    (place / PROVENANCE).unlink()
    assert problems_in_folder(place) == []


def test_problems_are_all_of_them_at_once(folder):
    """Config and weights are both wrong, and both are named: the first does not hide the second."""
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(fields | {"peft_type": "LOHA"}))
    change_tensors(folder, lambda tensors: tensors[f"{Q0}.lora_A.weight"].fill_(torch.nan))
    found = "\n".join(problems_in_folder(folder))
    assert "adapter_config.json: peft_type is 'LOHA'" in found
    assert f"adapter_model.safetensors: {Q0}.lora_A.weight holds NaN or inf" in found
    assert "SHA-256 is not the one" in found


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_missing_file_is_named_once(folder, name):
    """The other files are still read."""
    (folder / name).unlink()
    (found,) = [problem for problem in problems_in_folder(folder) if "can't be read" in problem]
    assert found.startswith(f"{name}: ")
    assert "can't be read (No such file or directory)" in found


def test_damaged_provenance_is_named_once(folder):
    """Two readers need it."""
    (folder / PROVENANCE).write_text("{")
    assert len([problem for problem in problems_in_folder(folder) if "not valid JSON" in problem]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q0}.lora_B.weight"), "q_lin has A of rank 4 and B of rank None"),
        (lambda t: t.update({f"{Q0}.lora_A.weight": torch.ones(3, 32)}), "q_lin has A of rank 3 and B of rank 4"),
        (lambda t: [t.pop(name) for name in list(t) if "lora_" in name], "holds no A and B of any module"),
    ],
)
def test_factors_that_do_not_fit_are_named_also_without_provenance(folder, change, message):
    """A folder of another tool has no digest to give it away."""
    (folder / PROVENANCE).unlink()
    change_tensors(folder, change)
    assert message in "\n".join(problems_in_folder(folder))


def test_another_alpha_is_named(folder):
    """It shows in no tensor: only provenance.json knows."""
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(fields | {"lora_alpha": 60}))
    assert "alpha 60.0" in "\n".join(problems_in_folder(folder))
