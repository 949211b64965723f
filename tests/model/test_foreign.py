"""lora_scratch/model/foreign.py: a base that is not what it seems is refused in one line."""

import json
import shutil

import pytest
from support.folders import save_base

from lora_scratch.errors import ModelError
from lora_scratch.model.base import load_base


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
def test_a_config_that_asks_for_code_from_elsewhere_is_refused(folder, key):
    """transformers fetches attention kernels from the hub where a config names them."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, key: "someone/kernels"}))
    with pytest.raises(ModelError, match="asks for the attention 'someone/kernels'"):
        load_base(str(folder))
