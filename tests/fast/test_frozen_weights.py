"""lora_scratch/fast/frozen_weights.py: rounding frozen weights once is what autocast does, bit for bit."""

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from support.families import record, tiny
from support.passes import adapted, batch_of, logits_and_gradients

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.deploy.bank import AdapterBank
from lora_scratch.fast import frozen_weights
from lora_scratch.fast.frozen_weights import PackedLinear, with_frozen_weights_in
from lora_scratch.serialization import fingerprint


def packs(dtype):
    """Skips where weights of `dtype` are not packed."""
    return pytest.mark.skipif(
        not frozen_weights.can_be_packed(torch.empty(2, 2), dtype), reason=f"this CPU packs no {dtype}"
    )


needs_packing = packs(torch.bfloat16)
PACKED = [pytest.param(dtype, marks=packs(dtype)) for dtype in (torch.bfloat16, torch.float32)]
ROWS = batch_of([7, 3, 5, 2] * 5)  # more tokens than FEW_ROWS


@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("packed", [True, False])
def test_logits_and_gradients_are_those_of_autocast_in_every_bit(family, variant, packed, monkeypatch):
    """Autocast rounds the same numbers to the same numbers; DoRA's norm is still that of the unrounded weight."""
    if not packed:
        monkeypatch.setattr(frozen_weights, "can_be_packed", lambda linear, dtype: False)
    model = inject(tiny(family), LoRAConfig(rank=4, alpha=12, dropout=0.0, variant=variant)).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = logits_and_gradients(model, ROWS, autocast=True)
    with with_frozen_weights_in(model, torch.bfloat16):
        found = logits_and_gradients(model, ROWS, autocast=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@needs_packing
def test_no_frozen_weight_is_rounded_or_packed_again_in_another_pass():
    """The point of it: one packed copy for the forward products and one for the backward ones, however many passes."""
    model = adapted("distilbert")
    with with_frozen_weights_in(model, torch.bfloat16):
        stored = model.distilbert.transformer.layer[0].ffn.lin1.forward
        logits_and_gradients(model, ROWS, autocast=True)
        weight, transposed = stored.weight, stored.transposed
        logits_and_gradients(model, ROWS, autocast=True)
        assert stored.weight is weight
        assert stored.transposed is transposed


@needs_packing
def test_prediction_packs_nothing_for_a_backward_pass():
    """A copy that nobody reads would be memory for nothing."""
    model = adapted("distilbert").eval()
    with with_frozen_weights_in(model, torch.bfloat16), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask)
        assert "transposed" not in vars(model.distilbert.transformer.layer[0].ffn.lin1.forward)


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (2, 7), (33,), (4, 3, 50)])
@pytest.mark.parametrize("shape", [(24, 40), (768, 96), (7, 5)])
def test_packed_product_and_its_gradient_are_those_of_f_linear(shape, rows, bias, dtype, monkeypatch):
    """In every bit in bfloat16; in float32 to 1e-5 of the largest entry, which is another order of summation."""
    monkeypatch.setattr(frozen_weights, "FEW_ROWS", 0)
    linear = torch.nn.Linear(shape[1], shape[0], bias=bias).requires_grad_(requires_grad=False)
    x, g = torch.randn(*rows, shape[1]), torch.randn(*rows, shape[0])
    plain, packed = (x.to(dtype).requires_grad_() for _ in range(2))
    expected = F.linear(plain, linear.weight.to(dtype), linear.bias.to(dtype) if bias else None)
    found = PackedLinear([linear], dtype)(packed)
    expected.backward(g.to(dtype))
    found.backward(g.to(dtype))
    for left, right in ((found, expected), (packed.grad, plain.grad)):
        assert left.shape == right.shape
        assert left.dtype is dtype
        off = float((left - right).detach().abs().max() / right.detach().abs().max())
        assert off <= (0 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("dtype", PACKED)
def test_few_rows_with_a_gradient_take_one_copy_for_both_directions(few, dtype):
    """No layout of oneDNN's but the weight as it lies, in float32 the parameter itself; without a gradient it is packed."""
    linear = torch.nn.Linear(6, 4).requires_grad_(requires_grad=False)
    layer = PackedLinear([linear], dtype)
    x = torch.randn(frozen_weights.FEW_ROWS + (not few), 6).requires_grad_()
    layer(x).sum().backward()
    stored = {"weight", "transposed", "rounded"} & set(vars(layer))
    assert stored == ({"rounded"} if few else {"weight", "transposed"})
    assert all(vars(layer)[name].is_mkldnn is not few for name in stored)
    if few and dtype is torch.float32:
        assert layer.rounded.data_ptr() == layer.linears[0].weight.data_ptr()
    expected = torch.ones(len(x), 4, dtype=dtype) @ layer.linears[0].weight.to(dtype)
    assert (x.grad - expected.float()).abs().max() <= 1e-5 * expected.float().abs().max()
    with torch.no_grad():
        layer(x)
    assert "weight" in vars(layer)


@needs_packing
@pytest.mark.parametrize(("bias", "zeros"), [(True, [0.0] * 6), (False, None)])
def test_gradients_have_a_bias_of_zeros_so_that_one_kernel_serves_both_passes(bias, zeros):
    """If outputs have a bias. A linear layer of 6 to 4: the product of a gradient has 6 outputs. No bit changes."""
    linear = torch.nn.Linear(6, 4, bias=bias).requires_grad_(requires_grad=False)
    x, g = torch.randn(65, 6).bfloat16().requires_grad_(), torch.randn(65, 4).bfloat16()
    layer = PackedLinear([linear], torch.bfloat16)
    layer(x).backward(g)
    assert (layer.zeros if zeros is None else layer.zeros.tolist()) == zeros
    assert torch.equal(x.grad, g @ linear.weight.bfloat16())


@packs(torch.float32)
@pytest.mark.parametrize("few", [0, 64])
def test_output_of_a_packed_product_may_be_changed_in_place(few, monkeypatch):
    """As that of F.linear: the update of an adapter is added into it."""
    monkeypatch.setattr(frozen_weights, "FEW_ROWS", few)
    linear = torch.nn.Linear(6, 4).requires_grad_(requires_grad=False)
    x = torch.randn(2, 3, 6, requires_grad=True)
    y = PackedLinear([linear], torch.float32)(x)
    (y.mul_(2) * torch.arange(24.0).view(2, 3, 4)).sum().backward()
    expected = 2 * torch.arange(24.0).view(2, 3, 4) @ linear.weight
    assert torch.allclose(x.grad, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_rounded_once_where_nothing_can_be_packed(dtype, monkeypatch):
    """Another version of torch may not have these operators, another CPU no bfloat16 for them: same bits without."""
    model = adapted("bert")
    expected = logits_and_gradients(model, ROWS, autocast=dtype is torch.bfloat16)
    monkeypatch.setattr(frozen_weights, "can_be_packed", lambda linear, dtype: False)
    with with_frozen_weights_in(model, dtype):
        found = logits_and_gradients(model, ROWS, autocast=dtype is torch.bfloat16)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_everything_that_reads_a_weight_sees_the_unrounded_one():
    """Files, fingerprints and merges made inside are those made outside."""
    model = adapted("distilbert")
    prints, state = fingerprint(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with with_frozen_weights_in(model, torch.bfloat16):
        assert fingerprint(model) == prints
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_model_is_as_it_was_afterwards_even_after_an_exception():
    """No forward of ours is left on any layer, and a nested use leaves the outer one alone."""
    model = adapted("distilbert")
    before = record(model)
    with suppress(KeyError), with_frozen_weights_in(model, torch.bfloat16):
        inside = model.distilbert.transformer.layer[0].ffn.lin1.forward
        with with_frozen_weights_in(model, torch.float16):
            pass
        assert model.distilbert.transformer.layer[0].ffn.lin1.forward is inside
        raise KeyError
    assert record(model) == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_layer_that_is_trained_keeps_its_own_forward():
    """A trained weight changes every step: a copy of it would be the old one."""
    model = adapted("distilbert")
    with with_frozen_weights_in(model, torch.bfloat16):
        assert "forward" not in vars(model.classifier)
        assert model.classifier.weight.requires_grad


def test_heads_of_a_bank_keep_the_weights_of_every_row():
    """Their base is frozen too, but each row goes through weights of its own: in every bit as under autocast alone."""
    bank = AdapterBank(tiny("distilbert"))
    bank.add("one", adapted("distilbert"))
    batch = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask}
    with bank.rows(["one", "base"] * 10) as model, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(**batch).logits
        with with_frozen_weights_in(model, torch.bfloat16):
            assert "forward" in vars(model.distilbert.transformer.layer[0].attention.q_lin.base)
            assert torch.equal(model(**batch).logits, expected)
