"""lora_scratch/fast/first_tokens.py: attention with absorbed keys and values is attention with computed ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.families import tiny
from support.passes import adapted, batch_of, largest_difference, logits_and_gradients
from torch import nn

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.fast.attention import attention
from lora_scratch.fast.dropout import cheap_dropouts
from lora_scratch.fast.first_tokens import can_absorb, first_token_attention
from lora_scratch.fast.packed import packed
from lora_scratch.fast.packing import pack
from lora_scratch.layers import DoRALinear, LoRALinear
from lora_scratch.model.forward import classify
from lora_scratch.testing import move_adapter

HEADS, D, IN, SCALING = 2, 3, 7, 0.7
lengths_of_rows = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def layer_of(kind, *, bias=True, dropout=0.0, dtype=torch.float64):
    """A frozen key or value projection, IN wide and HEADS · D out, away from its start."""
    linear = nn.Linear(IN, HEADS * D, bias=bias, dtype=dtype).requires_grad_(False)
    if kind == "linear":
        return linear
    layer = LoRALinear(linear, rank=2, alpha=5, dropout=dropout).to(dtype)
    move_adapter(layer)
    if kind == "merged":
        layer.merge()
    layer.enabled = kind != "switched off"
    return layer.train(dropout > 0)


def case(lengths, *, kind="lora", bias=True, dropout=0.0, dtype=torch.float64):
    """A packing, the queries of first tokens, the inputs of all, and the two layers."""
    torch.manual_seed(sum(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    q = torch.randn(len(lengths) * HEADS, D, dtype=dtype, requires_grad=True)
    x = torch.randn(sum(lengths), IN, dtype=dtype, requires_grad=True)
    layers = [layer_of(kind, bias=bias, dropout=dropout, dtype=dtype) for _ in range(2)]
    return pack(mask.long(), heads=HEADS), q, x, layers


def computed(q, x, layers, packing, **options):
    """The same with every key and value computed."""
    k, v = (layer(x).reshape(-1, D) for layer in layers)
    return attention(q, k, v, packing, scaling=SCALING, **options)


@settings(deadline=None)
@given(lengths=lengths_of_rows, kind=st.sampled_from(["linear", "lora", "merged", "switched off"]), bias=st.booleans())
def test_the_result_and_every_gradient_are_those_with_computed_keys_and_values(lengths, kind, bias):
    """Float64, to the float32 of the other's softmax: of queries, inputs, A and B."""
    packing, q, x, layers = case(lengths, kind=kind, bias=bias)
    trained = [p for layer in layers for p in layer.parameters() if p.requires_grad and kind == "lora"]
    found, expected = first_token_attention(q, x, *layers, packing, scaling=SCALING), computed(q, x, layers, packing)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    weights = torch.randn_like(found)
    grads = [torch.autograd.grad((each * weights).sum(), [q, x, *trained]) for each in (found, expected)]
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=5e-6 * max(1, float(right.abs().max())))


def test_gradients_with_dropout_are_those_of_the_very_masks_that_were_drawn():
    """With the generator put back every call draws the same masks: autograd against finite differences, in float64."""
    packing, q, x, layers = case([4, 1, 3], dropout=0.4)
    names = [(layer, name) for layer in layers for name in ("lora_A", "lora_B")]
    inputs = [q, x, *(getattr(layer, name).detach().requires_grad_() for layer, name in names)]

    def run(q, x, *factors):
        torch.manual_seed(5)
        for (layer, name), factor in zip(names, factors, strict=True):
            layer.__dict__[name] = factor  # seen before the parameter
        return first_token_attention(q, x, *layers, packing, scaling=SCALING, dropout=0.3)

    assert torch.autograd.gradcheck(run, inputs)


def test_dropout_has_the_moments_of_the_way_with_computed_keys_and_values():
    """Over 4,000 draws the means agree within five standard errors and the standard deviations within a tenth."""
    packing, q, x, layers = case([5, 2], dropout=0.3, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad(), cheap_dropouts(nn.ModuleList(layers)):
        found = torch.stack(
            [first_token_attention(q, x, *layers, packing, scaling=SCALING, dropout=0.2) for _ in range(4000)]
        )
        expected = torch.stack([computed(q, x, layers, packing, dropout=0.2) for _ in range(4000)])
    error = (found.var(0) + expected.var(0)).sqrt() / len(found) ** 0.5
    assert ((found.mean(0) - expected.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(found.std(0), expected.std(0), rtol=0.1, atol=0)


def test_key_and_value_draw_masks_of_their_own():
    """The same layer twice: what it drops for the keys is not what it drops for the values."""
    packing, q, x, (layer, _) = case([1], dropout=0.5)
    with torch.no_grad():  # one token a row: the weights are 1, so the result is the value
        draws = torch.stack([first_token_attention(q, x, layer, layer, packing, scaling=SCALING) for _ in range(8)])
    assert len(draws.flatten(1).unique(dim=0)) > 1


def test_only_frozen_plain_layers_that_nobody_watches_are_absorbed():
    """A trained key's bias has a gradient, zero; a hook waits for every token; DoRA has another formula."""
    assert all(can_absorb(layer_of(kind)) for kind in ("linear", "lora", "merged", "switched off"))
    watched, inside = layer_of("lora"), layer_of("lora")
    watched.register_forward_hook(lambda *_: None)
    inside.base.register_forward_pre_hook(lambda *_: None)
    others = [nn.Linear(3, 4), DoRALinear(nn.Linear(6, 4), rank=2, alpha=3), nn.Identity(), watched, inside]
    assert not any(map(can_absorb, others))


@pytest.mark.parametrize("autocast", [True, False])
def test_an_adapter_at_its_start_changes_no_bit_of_a_prediction(autocast):
    """Nothing is trained in a prediction, so the untouched model is absorbed like the frozen one, and B = 0 adds zero."""
    model, batch = tiny("distilbert"), batch_of([7, 3])
    assert any(p.requires_grad for p in model.parameters())
    with packed(model), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert can_absorb(model.distilbert.transformer.layer[-1].attention.k_lin)
        expected = classify(model, batch)
        assert torch.equal(classify(inject(model, LoRAConfig(rank=3, alpha=5)), batch), expected)


@pytest.mark.parametrize("family", ["distilbert", "bert"])
def test_whoever_watches_the_last_key_sees_every_token_and_changes_nothing(family):
    """A hook on it takes the lever away, not the numbers."""
    model, batch, shapes = adapted(family), batch_of([7, 3]), []
    with packed(model):
        expected = logits_and_gradients(model, batch)
        name = {
            "distilbert": "distilbert.transformer.layer.1.attention.k_lin",
            "bert": "bert.encoder.layer.1.attention.self.key",
        }
        model.get_submodule(name[family]).register_forward_hook(lambda _m, _a, output: shapes.append(output.shape[-2]))
        assert largest_difference(logits_and_gradients(model, batch), expected) < 1e-5
    assert shapes == [2, 10]  # the module's own call, with first tokens alone, and ours


def test_keys_and_values_of_the_last_block_are_computed_of_no_token_but_the_first(monkeypatch):
    """No layer of the last block's keys and values is ever given all tokens."""
    model, batch, shapes = adapted("distilbert"), batch_of([7, 3]), []
    for name in ("k_lin", "v_lin"):
        linear = getattr(model.distilbert.transformer.layer[-1].attention, name).base
        monkeypatch.setattr(
            linear, "forward", lambda x, linear=linear: shapes.append(x.shape) or type(linear).forward(linear, x)
        )
    with packed(model):
        logits_and_gradients(model, batch)
    assert {shape[-2] for shape in shapes} == {2}


def test_a_last_block_without_an_adapter_is_absorbed_too():
    """Only the first block adapted: the frozen projections of the last are plain linear layers."""
    model, batch = (
        inject(tiny("distilbert"), LoRAConfig(rank=3, alpha=5, targets=["layer.0.attention.q_lin"])),
        batch_of([5, 2]),
    )
    assert can_absorb(model.distilbert.transformer.layer[-1].attention.k_lin)
    expected = logits_and_gradients(model, batch)
    with packed(model):
        assert largest_difference(logits_and_gradients(model, batch), expected) < 1e-5
