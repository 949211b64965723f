import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from support import rank_work
from support.dispatched import dispatched
from support.families import tiny
from support.ranks import in_processes
from support.tiny import tiny_distilbert, tiny_rows
from torch import nn

from lora_scratch.adapter import LoRAConfig, inject, merge_all
from lora_scratch.data import collate
from lora_scratch.errors import DataError
from lora_scratch.evaluation import Predictor
from lora_scratch.evaluation.predict import batch_tokens_of
from lora_scratch.model.forward import evaluating
from lora_scratch.runtime.precision import ISA_LIMITS, Precision

FP32 = Precision(torch.float32, torch.device("cpu"))
BF16 = Precision(torch.bfloat16, torch.device("cpu"))


def predict(model, rows, *, precision=FP32, progress="", **options):
    return Predictor(model, precision, pad_token_id=0, **options).logits(rows, progress=progress)


def test_predict_logits_come_in_the_order_of_the_data_set():
    """Row i of the result is what the model says of row i alone, whatever the lengths."""
    model, rows = tiny_distilbert(), tiny_rows(19)
    assert len(set(rows.lengths.tolist())) > 3
    with torch.no_grad():
        alone = [collate(rows, [row], pad_token_id=0) for row in range(len(rows))]
        expected = torch.cat([model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits for b in alone])
    torch.testing.assert_close(predict(model, rows, batch_tokens=40), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 30, 200, 10_000])
def test_predict_logits_do_not_depend_on_the_batch(batch_tokens):
    """Padding is masked: in whatever company a row stands, its logits are the same."""
    model, rows = tiny_distilbert(), tiny_rows(48)
    torch.testing.assert_close(predict(model, rows, batch_tokens=batch_tokens), predict(model, rows), rtol=0, atol=1e-5)


def test_map_rows_gives_every_row_its_own_value():
    """The order is restored exactly: each row gets its own number back."""
    rows = tiny_rows(23)
    found = Predictor(None, FP32, 0, batch_tokens=40).map_rows(lambda batch: batch.rows[:, None], rows)
    assert found.flatten().tolist() == list(range(23))


@pytest.mark.parametrize(
    ("amx", "dtype", "limit", "expected"),
    [
        (True, torch.bfloat16, "", 3072),
        (True, torch.bfloat16, "avx512_core_amx", 3072),
        (True, torch.bfloat16, "AVX512_CORE_BF16", 1024),  # the environment keeps oneDNN from using them
        (True, torch.float32, "", 1024),
        (False, torch.bfloat16, "", 1024),
    ],
)
@pytest.mark.parametrize("variable", ISA_LIMITS)
def test_batches_are_large_where_products_use_matrix_registers(amx, dtype, limit, variable, expected, monkeypatch):
    """Only there is it worth the memory, and only for bfloat16, which they multiply."""
    for name in ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, limit)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert batch_tokens_of(Precision(dtype, torch.device("cpu"))) == expected


@pytest.mark.parametrize("batch_tokens", [24, 1000])
def test_rows_go_to_the_device_once_and_batches_are_made_there(batch_tokens):
    """However many batches: two copies that the host waits for, tokens and labels. The meta device stands in for a GPU."""
    there, seen = SimpleNamespace(device=torch.device("meta"), autocast=nullcontext), []

    def first_class(batch):
        seen.append({tensor.device.type for tensor in batch.tensors.values()})
        return torch.zeros(len(batch.rows), 2)

    with dispatched() as operators:
        Predictor(None, there, 0, batch_tokens=batch_tokens).map_rows(first_class, tiny_rows(23))
    copies = [options for name, options in operators.calls if name == "_to_copy" and str(options.get("device")) == "meta"]
    assert len(seen) == {24: 10, 1000: 1}[batch_tokens]
    assert seen == [{"meta"}] * len(seen)
    assert [bool(options.get("non_blocking")) for options in copies] == [False] * 2 + [True] * len(seen)


def test_predict_logits_have_no_dropout():
    """A model in training mode is put into evaluation mode: two passes agree bit for bit with one in that mode."""
    rows = tiny_rows(8)
    evaluated = predict(tiny_distilbert(dropout=0.5), rows)
    assert torch.equal(predict(tiny_distilbert(dropout=0.5).train(), rows), evaluated)


def test_predict_logits_are_float32_without_gradient_and_usable_in_training():
    """Also under bfloat16; and what comes back may go into a loss, which an inference tensor may not."""
    model, rows = tiny_distilbert(), tiny_rows(8)
    logits = predict(model, rows, precision=BF16)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert not logits.is_inference()
    assert not torch.equal(logits, predict(model, rows))


class Failing(nn.Module):
    """A model that fails, with one part in training mode and one not."""

    def __init__(self):
        super().__init__()
        self.frozen, self.trained = nn.Dropout().eval(), nn.Dropout()

    def forward(self, **_batch):
        assert not self.training
        assert not self.trained.training
        raise RuntimeError("out of memory")


def modes(model):
    return [module.training for module in model.modules()]


def test_predict_logits_restores_the_mode_of_every_module_after_an_exception():
    """A part that was in evaluation mode stays there, where `model.train()` would switch it on."""
    model = Failing()
    with pytest.raises(RuntimeError, match="out of memory"):
        predict(model, tiny_rows(4))
    assert modes(model) == [True, False, True]


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_model_in_the_mode_it_found(training):
    """Both ways round, inside always in evaluation mode."""
    model = tiny_distilbert().train(training)
    with evaluating(model):
        assert not any(modes(model))
    assert set(modes(model)) == {training}


def test_predict_logits_shows_a_bar_only_when_it_has_a_name(capsys):
    """The bar stands on stderr under its name; without a name there is none."""
    model, rows = tiny_distilbert(), tiny_rows(8)
    predict(model, rows)
    assert capsys.readouterr().err == ""
    predict(model, rows, progress="baseline")
    assert "baseline: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "tolerance"), [(FP32, 1e-6), (BF16, 2e-2)])
def test_plain_and_fast_prediction_agree_to_rounding(precision, tolerance):
    """Also of a merged model with its adapter; the fast one leaves the model's own attention behind."""
    model, rows = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8)), tiny_rows(19)
    merge_all(model)
    plain = predict(model, rows, precision=precision, plain=True)
    assert torch.allclose(predict(model, rows, precision=precision), plain, rtol=0, atol=tolerance)
    assert model.config._attn_implementation == "sdpa"


def test_predict_logits_says_once_that_a_model_is_classified_with_padding():
    """A family without a packed path is no reason to stop, nor to be silent, nor to repeat itself; --plain asked for it."""
    model, rows = tiny("gpt2"), tiny_rows(8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        plain = predict(model, rows, plain=True)
        assert not said
        for _ in range(3):
            assert torch.equal(predict(model, rows), plain)
    assert [str(each.message) for each in said] == [
        "GPT2ForSequenceClassification is computed with padding: no packing for it"
    ]


def test_predict_logits_round_frozen_weights_once_with_autocasts_own_bits():
    """The padded path with weights in bfloat16 gives what autocast gives, and the weights stay float32."""
    model, rows = tiny("gpt2").requires_grad_(False), tiny_rows(8)
    assert torch.equal(predict(model, rows, precision=BF16), predict(model, rows, precision=BF16, plain=True))
    model = tiny_distilbert().requires_grad_(False)
    with torch.no_grad():
        predict(model, rows, precision=BF16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any("forward" in vars(module) for module in model.modules())


def test_predict_logits_refuses_no_rows():
    """There is no number of classes to return an empty table for."""
    with pytest.raises(DataError, match="no rows to predict"):
        predict(tiny_distilbert(), tiny_rows(4).select([]))


@pytest.mark.parametrize(("count", "processes"), [(19, 2), (7, 3)])
def test_predict_logits_of_several_processes_are_the_bits_of_one(count, processes):
    """Uneven shares too, and none at all; each row is counted once, in its place."""
    alone = predict(tiny_distilbert(), tiny_rows(count), batch_tokens=40)
    for logits in in_processes(rank_work.logits, count, 40, size=processes):
        assert torch.equal(torch.from_numpy(logits), alone)
