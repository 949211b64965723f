"""lora_scratch/adapter/quantize.py: four bits for the frozen base, with an adapter on top, a file, and a way back."""

import pytest
import torch
from support.families import record, tiny
from support.passes import batch_of
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from lora_scratch.adapter import (
    LoRAConfig,
    adapter_layers,
    base_precision,
    count_parameters,
    dequantize_base,
    disabled,
    inject,
    merge_all,
    merge_and_remove,
    quantize_base,
)
from lora_scratch.errors import BaseMismatchError, ConfigError, MergeError
from lora_scratch.layers import NF4Linear
from lora_scratch.serialization import fingerprint, load_adapter, read_provenance, save_adapter
from lora_scratch.testing import move_adapter

ROWS = batch_of([7, 3, 5])


def logits(model):
    """In evaluation, without gradients."""
    with torch.no_grad():
        return model.eval()(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits


def adapted(family="distilbert", **options):
    """A quantized model with an adapter away from its start."""
    model = tiny(family)
    quantize_base(model)
    inject(model, LoRAConfig(**{"rank": 2, "alpha": 3, "dropout": 0.0} | options))
    for layer in adapter_layers(model).values():
        move_adapter(layer)
    return model


def test_the_frozen_linear_weights_of_distilbert_take_at_most_0_15_of_their_float32_bytes():
    """At its real size, random weights: 36 linear layers, 42.5 million weights."""
    model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=6))
    report = quantize_base(model)
    assert (len(report.names), report.parameters) == (36, 42_467_328)
    stored = sum(t.nbytes for name, t in model.state_dict().items() if name.endswith((".codes", ".scales", ".constants")))
    assert stored == report.summary()["bytes_after"]
    assert stored <= 0.15 * 4 * 42_467_328
    assert report.share_of_float32 == pytest.approx(0.129, abs=1e-3)
    assert "36 linear layers in 4 bits: 169.9 MB -> 21.9 MB, 0.129 of float32" in str(report)


@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
def test_head_embeddings_and_norms_stay(family):
    """Only linear layers under the encoder are codes afterwards."""
    model = tiny(family)
    kinds = {name: type(module) for name, module in model.named_modules()}
    report = quantize_base(model)
    changed = {name for name, module in model.named_modules() if name in kinds and type(module) is not kinds[name]}
    assert changed == set(report.names)
    assert all(kinds[name] is nn.Linear and name.startswith(f"{model.base_model_prefix}.") for name in changed)


def test_report_measures_what_was_lost():
    """Against the weights before, by norms over all layers together."""
    before = {name: p.detach().clone() for name, p in tiny("distilbert").named_parameters()}
    model = tiny("distilbert")
    report = quantize_base(model)
    differences = {name: model.get_submodule(name).weight - before[f"{name}.weight"] for name in report.names}
    lost = torch.cat([difference.flatten() for difference in differences.values()]).norm()
    whole = torch.cat([before[f"{name}.weight"].flatten() for name in differences]).norm()
    assert report.relative_error == pytest.approx(float(lost / whole), rel=1e-5)
    assert report.summary()["largest_error"] == pytest.approx(max(float(d.abs().max()) for d in differences.values()))


def test_an_adapter_starts_from_exactly_the_quantized_base_and_disabled_is_it_again():
    """Zero start and `disabled`, in every bit."""
    model = tiny("distilbert")
    quantize_base(model)
    base = logits(model)
    inject(model, LoRAConfig(rank=2, alpha=3))
    assert torch.equal(logits(model), base)
    for layer in adapter_layers(model).values():
        move_adapter(layer)
    assert not torch.equal(logits(model), base)
    with disabled(model):
        assert torch.equal(logits(model), base)


def test_parameters_are_counted_as_those_of_the_model():
    """Four bits are another way to store them, not fewer of them."""
    plain, quantized = inject(tiny("distilbert"), LoRAConfig(rank=2)), adapted()
    assert count_parameters(quantized) == count_parameters(plain)


def test_dequantized_model_computes_the_same_and_can_be_merged():
    """The quantized numbers in plain linear layers; then the merge is the usual one."""
    model = adapted()
    expected = logits(model)
    with pytest.raises(MergeError, match="the base is quantized; call dequantize_base"):
        merge_all(model)
    with pytest.raises(MergeError, match="quantized"):
        merge_and_remove(model)
    assert len(dequantize_base(model)) == 12
    assert base_precision(model) == "full"
    assert torch.allclose(logits(model), expected, atol=1e-5)
    merge_and_remove(model)
    assert torch.allclose(logits(model), expected, atol=1e-4)
    assert not [module for module in model.modules() if isinstance(module, NF4Linear)]
    assert dequantize_base(model) == []


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapter_of_a_quantized_base_is_saved_and_loaded_with_it(variant, tmp_path):
    """Same logits in every bit; provenance.json says what the base was stored in."""
    model = adapted(variant=variant)
    save_adapter(model, tmp_path / "adapter", base_model="tiny")
    again = tiny("distilbert")
    quantize_base(again)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    assert read_provenance(tmp_path / "adapter").base.precision == "nf4"


def test_loading_on_a_base_in_another_precision_is_refused_and_says_so(tmp_path):
    """Both ways; who knows better may pass verify_base=False."""
    save_adapter(adapted(), tmp_path / "four")
    plain = inject(tiny("distilbert"), LoRAConfig(rank=2, alpha=3))
    save_adapter(plain, tmp_path / "full")
    with pytest.raises(BaseMismatchError, match="trained on a base in precision nf4, and this one is in full"):
        load_adapter(tiny("distilbert"), tmp_path / "four")
    quantized = tiny("distilbert")
    quantize_base(quantized)
    with pytest.raises(BaseMismatchError, match="in precision full, and this one is in nf4"):
        load_adapter(quantized, tmp_path / "full")
    load_adapter(tiny("distilbert"), tmp_path / "four", verify_base=False)


def test_fingerprint_covers_every_quantized_weight():
    """One changed code in a layer that is not adapted shows."""
    model = adapted(targets=["q_lin"])
    before = fingerprint(model)
    model.distilbert.transformer.layer[0].ffn.lin1.codes[5] += 1
    assert fingerprint(model) != before


@pytest.mark.parametrize("make", [adapted, lambda: inject(tiny("distilbert"), LoRAConfig(rank=2))])
def test_a_model_that_is_adapted_or_quantized_is_refused_untouched(make):
    """Quantizing twice would lose twice; under an adapter the base would change behind its back."""
    model = make()
    before = record(model)
    with pytest.raises(ConfigError, match="adapted or quantized already"):
        quantize_base(model)
    assert record(model) == before


def test_a_weight_that_is_not_finite_is_named_and_nothing_is_quantized():
    """The last layer's, after all others could have been replaced."""
    model = tiny("distilbert")
    with torch.no_grad():
        model.distilbert.transformer.layer[-1].ffn.lin2.weight[0, 0] = torch.nan
    before = record(model)
    with pytest.raises(ConfigError, match=r"layer\.1\.ffn\.lin2"):
        quantize_base(model)
    assert record(model) == before


def test_a_model_without_linear_layers_outside_the_head_is_refused():
    """GPT-2's are Conv1D: better said than silently left in float32."""
    with pytest.raises(ConfigError, match="no linear layer outside the head"):
        quantize_base(tiny("gpt2"))


def test_gradients_reach_the_adapter_through_the_quantized_layers():
    """Also that of the first block, below layers that are all codes."""
    model = adapted().train()
    model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for layer in adapter_layers(model).values()
        for p in layer.adapter_tensors().values()
    )
