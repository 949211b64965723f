"""lora_scratch/training/ledger.py and activations.py: the formula against what autograd and the optimizer really hold."""

import pytest
import torch
import transformers
from families import tiny
from tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import Batch
from lora_scratch.errors import ConfigError
from lora_scratch.runtime.precision import Precision
from lora_scratch.training.ledger import measure_ledger, predict_ledger, saved_bytes

FP32 = Precision(torch.float32, torch.device("cpu"))
BF16 = Precision(torch.bfloat16, torch.device("cpu"))
ROWS, TOKENS = 6, 24


def encoder(family, dropout):
    """Wide enough that the few numbers of the head do not count, with dropout everywhere or nowhere."""
    torch.manual_seed(0)
    if family == "distilbert":
        sizes = {"dim": 64, "hidden_dim": 160, "n_layers": 3, "n_heads": 4, "seq_classif_dropout": dropout}
        config = transformers.DistilBertConfig(vocab_size=50, dropout=dropout, attention_dropout=dropout, **sizes)
        return transformers.DistilBertForSequenceClassification(config)
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = getattr(transformers, f"{family}Config")(vocab_size=50, **sizes, **drops)
    return getattr(transformers, f"{family}ForSequenceClassification")(config)


def batch(rows=ROWS, tokens=TOKENS):
    ids = torch.randint(5, 50, (rows, tokens))
    return Batch(ids, torch.ones_like(ids), torch.zeros(rows, dtype=torch.int64), torch.arange(rows))


@pytest.mark.parametrize("family", ["distilbert", "Bert", "Roberta"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("trained", ["base", "LoRA", "full"])
def test_the_ledger_predicts_what_a_step_holds(family, dropout, trained):
    """Adapter to the byte, the rest but for step counters, position ids, an unused pooler; activations to 4 %, the head."""
    model = encoder(family, dropout).requires_grad_(trained == "full")
    if trained == "LoRA":
        inject(model, LoRAConfig(rank=4, alpha=8, dropout=dropout))
    predicted = predict_ledger(model, rows=ROWS, tokens=TOKENS)
    measured = measure_ledger(model, batch(), FP32)
    assert measured.weights == pytest.approx(predicted.weights, rel=0.03)
    assert measured.adapter == predicted.adapter
    assert measured.gradients == pytest.approx(predicted.gradients, rel=0.1 if family == "Bert" else 0)
    assert measured.optimizer == pytest.approx(predicted.optimizer, rel=0.01)
    assert measured.activations == pytest.approx(predicted.activations, rel=0.04)
    assert (measured.activations == 0) is (trained == "base")


@pytest.mark.parametrize("family", ["distilbert", "Bert"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", [BF16, FP32], ids=["bf16", "fp32"])
def test_the_ledger_predicts_what_a_step_on_the_fast_path_holds(family, dropout, precision):
    """Activations to 4 %, of which the head is a part; the copies of frozen weights to the byte, of fp32 ones none."""
    model = inject(encoder(family, dropout), LoRAConfig(rank=4, alpha=8, dropout=dropout))
    predicted = predict_ledger(model, rows=ROWS, tokens=TOKENS, fast=precision)
    measured = measure_ledger(model, batch(), precision, plain=False)
    assert measured.activations == pytest.approx(predicted.activations, rel=0.04)
    assert measured.copies == predicted.copies
    assert (measured.copies > 0) is (precision is BF16)
    assert measured.adapter == predicted.adapter


@pytest.mark.parametrize(("rows", "tokens"), [(70, 3), (70, 1), (8, 4), (8, 20)])
def test_copies_are_predicted_for_few_rows_and_for_many(rows, tokens):
    """On both sides of FEW_ROWS, for all tokens and for the first ones."""
    model = inject(encoder("Bert", 0.0), LoRAConfig(rank=4, alpha=8))
    predicted = predict_ledger(model, rows=rows, tokens=tokens, fast=BF16)
    assert measure_ledger(model, batch(rows, tokens), BF16, plain=False).copies == predicted.copies


def test_the_ledger_grows_with_the_rank_as_the_formula_says():
    """3 numbers a token and block for every rank more, and 4 · (in + out) bytes a layer."""
    ledgers = {}
    for rank in (2, 10):
        model = inject(encoder("distilbert", 0.0), LoRAConfig(rank=rank, alpha=8))
        ledgers[rank] = measure_ledger(model, batch(), FP32)
    assert ledgers[10].activations - ledgers[2].activations == 4 * 8 * 3 * 3 * ROWS * TOKENS
    assert ledgers[10].adapter - ledgers[2].adapter == 4 * 8 * 9 * (64 + 64)


def test_dropout_is_what_makes_loras_activations_large():
    """A copy and a mask for each of q, k and v: without dropout on the adapter alone, LoRA keeps less than full tuning."""
    held = {}
    for name, dropout in (("dropped", 0.1), ("whole", 0.0)):
        model = inject(encoder("distilbert", 0.0), LoRAConfig(rank=4, alpha=8, dropout=dropout))
        held[name] = measure_ledger(model, batch(), FP32).activations
    full = measure_ledger(encoder("distilbert", 0.0), batch(), FP32).activations
    assert held["whole"] < full < held["dropped"]


def test_the_fast_path_keeps_less_than_the_plain_one():
    """No padding in 3 of 4 rows, no float masks, bfloat16 activations."""
    padded = batch()
    padded.attention_mask[1:, TOKENS // 2 :] = 0
    model = inject(encoder("distilbert", 0.1), LoRAConfig(rank=4, alpha=8, dropout=0.1))
    plain = measure_ledger(model, padded, FP32)
    fast = measure_ledger(model, padded, BF16, plain=False)
    assert fast.activations < 0.6 * plain.activations
    assert fast.adapter == plain.adapter


def test_a_storage_that_two_operations_save_is_counted_once_and_the_models_own_not():
    """x·x saves x twice; a linear layer saves its weight, which is there anyway."""
    layer, x = torch.nn.Linear(8, 8), torch.randn(5, 8, requires_grad=True)
    with saved_bytes(layer) as saved:
        x * x
        layer(x)
    assert saved() == 5 * 8 * 4


def test_the_ledger_leaves_the_dtype_and_the_attention_of_the_model():
    """A step on the fast path, and all is as before but what was trained."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))
    before = model.config._attn_implementation
    measure_ledger(model, batch(4, 8), BF16, plain=False)
    assert model.config._attn_implementation == before
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_ledger_of_another_family_is_refused_in_words():
    """GPT-2 has other blocks: no formula, no guess."""
    with pytest.raises(ConfigError, match=r"no formula.*gpt2"):
        predict_ledger(tiny("gpt2"), rows=2, tokens=4)
