"""lora_scratch/model/foreign.py: a base that is not what it seems is refused in one line."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.folders import save_base
from torch import nn

from lora_scratch.errors import ModelError
from lora_scratch.model.base import load_base
from lora_scratch.model.checks import check_base
from lora_scratch.model.foreign import check_attention, check_weights


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small base with its tokenizer."""
    return save_base(tmp_path_factory.mktemp("base") / "model", labels=("no", "yes"))


@pytest.fixture
def folder(base, tmp_path):
    """A copy to damage."""
    return shutil.copytree(base, tmp_path / "model")


def test_a_base_with_an_adapter_beside_it_is_refused(folder):
    """transformers would load the adapter with it, and call the two the frozen baseline."""
    import peft
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    config = peft.LoraConfig(target_modules=["q_lin"], r=2, task_type="SEQ_CLS", base_model_name_or_path=str(folder))
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"also holds an adapter .adapter_config.json.; expected a base without"):
        load_base(str(folder))


def test_a_base_without_its_tokenizer_is_refused(folder):
    """It would train on unknown tokens alone."""
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    with pytest.raises(ModelError, match=r"special tokens|tokenizer"):
        load_base(str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_code_from_elsewhere_that_a_config_asks_for_is_refused_or_has_no_effect(folder, key):
    """transformers fetches attention kernels from the hub where a config names them; old releases drop the entry."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, key: "someone/kernels"}), encoding="utf-8")
    try:
        base = load_base(str(folder))
    except ModelError as error:
        assert "asks for the attention 'someone/kernels'" in str(error)  # noqa: PT017
    else:
        assert base.model.config._attn_implementation in ("eager", "sdpa")


def test_an_entry_for_attention_from_elsewhere_is_named():
    """Whatever a release of transformers does with it."""
    for key in ("attn_implementation", "_attn_implementation"):
        with pytest.raises(ModelError, match="asks for the attention 'someone/kernels'"):
            check_attention("base", SimpleNamespace(**{key: "someone/kernels"}))
    check_attention("base", SimpleNamespace(_attn_implementation="sdpa"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_base_whose_own_weights_are_no_numbers_is_refused(folder, value):
    """One bad number in a row that few texts read: no learning rate would help, so the tensor is named."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["distilbert.transformer.layer.0.ffn.lin1.bias"][3] = value
    tensors["distilbert.embeddings.word_embeddings.weight"][17, 2] = value
    save_file(tensors, path, metadata={"format": "pt"})
    named = r"NaN or infinity, in distilbert\.embeddings\.word_embeddings\.weight and 1 more tensors; download or save"
    with pytest.raises(ModelError, match=named):
        load_base(str(folder))


def test_weights_whose_sum_overflows_are_numbers():
    """A sum in float16 ends at 65,504."""
    check_weights("base", nn.Linear(64, 64).half().requires_grad_(False).apply(lambda layer: layer.weight.fill_(6e4)))


def test_a_head_that_starts_new_may_be_no_numbers_in_the_file(folder):
    """It is drawn again for other labels."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.weight"].fill_(math.nan)
    save_file(tensors, path, metadata={"format": "pt"})
    load_base(str(folder), labels=("a", "b", "c"))
    with pytest.raises(ModelError, match=r"NaN or infinity, in classifier\.weight;"):
        load_base(str(folder))


def test_a_base_that_computes_no_numbers_is_refused(folder):
    """Its weights are finite and too large."""
    base = load_base(str(folder))
    with torch.no_grad():
        base.model.distilbert.transformer.layer[0].ffn.lin2.weight.fill_(3e38)
        base.model.classifier.weight.fill_(3e38)
    with pytest.raises(ModelError, match="it computes NaN or infinity for a short text; expected numbers"):
        check_base(base)
