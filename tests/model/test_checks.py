"""lora_scratch/model/checks.py: model and tokenizer fit, or one line says what does not, before any work."""

import os
import subprocess
import sys

import pytest
import torch
import transformers
from support.tiny_models import PAD, SEP, save_tiny, tiny_tokenizer

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import encode
from lora_scratch.errors import ConfigError, ModelError
from lora_scratch.evaluation import Predictor
from lora_scratch.model.base import load_base
from lora_scratch.model.checks import check_base
from lora_scratch.model.families import FAMILIES
from lora_scratch.runs import open_base
from lora_scratch.runs.loading import resolve_adapter
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training import TrainingConfig, train


def opened(folder):
    """The base of a folder, checked."""
    return check_base(load_base(str(folder)))


@pytest.mark.parametrize(("family", "positions"), [("bert", 80), ("roberta", 79), ("bart", 80), ("longformer", 79)])
def test_more_tokens_than_positions_are_refused_before_any_work(family, positions, tmp_path):
    """RoBERTa's first position is the one after padding's; a tokenizer's own limit can be anything."""
    save_tiny(family, tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    base = opened(tmp_path)
    with pytest.raises(ConfigError, match=f"--max_tokens: 128 is more than the model reads; expected at most {positions}"):
        encode(["a film"], torch.zeros(1).long(), base.tokenizer, max_tokens=128)


@pytest.mark.parametrize("family", ["t5", "llama", "xlnet", "deberta-v2"])
def test_a_model_with_relative_positions_has_no_limit_of_its_own(family, tmp_path):
    """The tokenizer's limit stays."""
    assert opened(save_tiny(family, tmp_path)).tokenizer.model_max_length == 72


def test_tokens_without_an_embedding_are_one_line(tmp_path):
    """Added to the tokenizer, and the model was not resized: an index error at the first text with one."""
    save_tiny("bert", tmp_path, vocab_size=20)
    with pytest.raises(ModelError, match=r"the tokenizer has \d+ tokens; expected at most 20, .*resize_token_embeddings"):
        opened(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_without_a_padding_token_gets_the_end_of_a_text_and_it_is_said(family, tmp_path):
    """Config and tokenizer agree afterwards, so the export does too."""
    base = opened(save_tiny(family, tmp_path, pad=False))
    assert base.pad_token_id == base.model.config.pad_token_id == base.tokenizer.pad_token_id == SEP
    assert f"it has no padding token: <sep> ({SEP}) is used" in base.notes


def test_the_models_padding_counts_where_the_tokenizer_has_another(tmp_path):
    """RoBERTa counts positions from its padding token, and a decoder reads the token before it."""
    save_tiny("roberta", tmp_path, pad_token_id=1)
    base = opened(tmp_path)
    assert base.pad_token_id == base.tokenizer.pad_token_id == 1
    assert f"the model pads with token 1, its tokenizer with {PAD}: 1 is used" in base.notes


def test_the_tokenizer_of_xlnet_pads_on_the_left_so_that_an_export_does(tmp_path):
    """A pipeline of transformers pads as the saved tokenizer says."""
    assert tiny_tokenizer().padding_side == "right"
    assert opened(save_tiny("xlnet", tmp_path)).tokenizer.padding_side == "left"


def test_a_padding_token_outside_the_vocabulary_is_none(tmp_path):
    """-1 in Llama's configs."""
    assert opened(save_tiny("llama", tmp_path, pad_token_id=-1)).pad_token_id == PAD


def test_layers_without_effect_are_left_out_of_default_targets_and_it_is_said(tmp_path):
    """Longformer's [CLS] asks by its global projections: the last block's own ones are never read."""
    base = opened(save_tiny("longformer", tmp_path))
    assert {name.rpartition(".")[2] for name in base.unused} == {"query", "key", "value"}
    assert all(".layer.1." in name for name in base.unused)
    assert any(note.startswith("3 layers have no effect on its logits") for note in base.notes)
    config = resolve_adapter(base, LoRAConfig(rank=4))
    assert config.exclude == list(base.unused)


@pytest.mark.parametrize(("family", "unused"), [("big_bird", "bert.pooler"), ("esm", "esm.contact_head.regression")])
def test_all_linear_leaves_out_what_takes_no_part(family, unused, tmp_path):
    """BigBird's pooler would never move; ESM's contact head has one output and no rank 4."""
    base = opened(save_tiny(family, tmp_path))
    assert base.unused == (unused,)
    assert unused not in resolve_adapter(base, LoRAConfig(rank=4, targets=["all-linear"])).targets


def test_targets_that_are_named_are_taken_as_named(tmp_path):
    """Nothing is left out in silence."""
    base = opened(save_tiny("longformer", tmp_path))
    assert resolve_adapter(base, LoRAConfig(rank=4, targets=["query"])).exclude is None


def test_bigbird_attends_in_full_so_that_a_long_row_changes_no_short_one(tmp_path):
    """Its own switch happens at the first short batch and stays: answers would depend on the order."""
    base = opened(save_tiny("big_bird", tmp_path))
    assert base.model.config.attention_type == "original_full"
    assert any(note.startswith("every row attends to all its tokens") for note in base.notes)
    row, beside = torch.randint(6, 30, (1, 12)), torch.randint(6, 30, (1, 64))
    alone = base.model(input_ids=row, attention_mask=torch.ones_like(row)).logits
    ids = torch.cat([torch.nn.functional.pad(row, (0, 52)), beside])
    together = base.model(input_ids=ids, attention_mask=(torch.arange(64) < torch.tensor([[12], [64]])).long()).logits
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_nystromformer_computes_rows_of_every_length(tmp_path):
    """Its landmarks compute rows of 16 tokens alone, and fail with a mask in transformers 5."""
    base = opened(save_tiny("nystromformer", tmp_path, num_landmarks=4))
    assert base.model.config.num_landmarks == 16
    assert any(note.startswith("attention is exact instead of by landmarks") for note in base.notes)


def test_a_model_that_can_not_compute_a_text_is_one_line(tmp_path, monkeypatch):
    """Instead of a traceback after the data was read."""
    base = load_base(str(save_tiny("bert", tmp_path)))

    def forward(**inputs):
        raise TypeError("bbox is missing\nmore")

    monkeypatch.setattr(base.model, "forward", forward)
    with pytest.raises(ModelError, match="it can't compute a short text: TypeError: bbox is missing; expected") as caught:
        check_base(base)
    assert "\n" not in str(caught.value)


def test_the_check_leaves_the_model_as_it_was(tmp_path):
    """No hook, no gradient, no frozen tensor stays behind."""
    base = opened(save_tiny("deberta", tmp_path))
    assert all(p.requires_grad and p.grad is None for p in base.model.parameters())
    assert not any(module._forward_hooks for module in base.model.modules())


def test_a_family_without_a_line_is_said_in_one(tmp_path, monkeypatch):
    """And adapted in all its linear layers."""
    monkeypatch.delitem(FAMILIES, "ernie")
    base = open_base(str(save_tiny("ernie", tmp_path)))
    assert any(note.startswith("no default targets for the family ernie") for note in base.notes)
    assert len(resolve_adapter(base, LoRAConfig(rank=4)).targets) == 13


@pytest.mark.parametrize(
    ("family", "settings", "std"),
    [
        ("bart", {"init_std": 0.2}, 0.2),
        ("xlm", {"init_std": 0.2}, 0.2),
        ("t5", {}, 0.02),
        ("bert", {"initializer_range": 0.1}, 0.1),
    ],
)
def test_a_fresh_head_has_the_spread_that_the_config_names(family, settings, std, tmp_path):
    """BART and XLM call it init_std, T5 has none."""
    base = open_base(str(save_tiny(family, tmp_path, **settings)), labels=("a", "b"))
    name = next(name for name in base.newly_initialized if name.endswith("weight"))
    assert base.model.get_parameter(name).detach().std() == pytest.approx(std, rel=0.3)


def test_an_unused_layer_that_the_file_lacks_needs_no_training(tmp_path):
    """A checkpoint without BigBird's pooler: nothing reads its random values."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(save_tiny("big_bird", tmp_path))
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    model.save_pretrained(tmp_path, state_dict=tensors)
    base = open_base(str(tmp_path))
    assert base.newly_initialized == ("bert.pooler.bias", "bert.pooler.weight")
    assert resolve_adapter(base, LoRAConfig(rank=4)).head_modules == ["classifier"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_deberta_trains_and_predicts_in_float32_whatever_was_asked_for(precision, tmp_path):
    """Its masked scores overflow in half precision: a RuntimeError at the first batch."""
    base = opened(save_tiny("deberta", tmp_path))
    assert "it computes in fp32 alone: half precision overflows" in base.notes
    rows = encode(["a film is good", "bad"] * 4, torch.arange(8) % 3, base.tokenizer, max_tokens=20)
    asked = resolve_precision(precision, torch.device("cpu"))
    assert Predictor(base.model, asked, base.pad_token_id).precision.name == "fp32"
    inject(base.model, resolve_adapter(base, LoRAConfig(rank=2)))
    settings = TrainingConfig(epochs=1, batch_size=8, precision=precision, device="cpu")
    train(base.model, rows, rows, settings, pad_token_id=base.pad_token_id, show_progress=False)


def test_bigbird_computes_in_half_precision_since_it_attends_in_full(tmp_path):
    """Its block-sparse attention mixes dtypes and fails."""
    base = opened(save_tiny("big_bird", tmp_path))
    ids = torch.randint(6, 30, (2, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


OPENED = """
import sys
import torch
from lora_scratch.runs import open_base
model = open_base(sys.argv[1]).model
print("opened", torch.backends.mkldnn.enabled, flush=True)
model(input_ids=torch.ones(1, 4, dtype=int))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_the_check_of_a_base_compiles_no_kernel_of_onednn(tmp_path):
    """The first one fixes how many are kept: with 1,024 in place of 64 a training took 600 MB more (fast/onednn.py)."""
    command = [sys.executable, "-c", OPENED, str(save_tiny("bert", tmp_path))]
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    before, after = done.stdout.split("opened True\n")
    assert ",exec," not in before
    assert ",exec," in after  # or the first assertion shows nothing
