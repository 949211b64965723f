"""fast/self_attention.py: one node is the formula, with its gradients and its dropout, and knows what it does not fit."""

from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest
import torch
from support.families import tiny
from support.machines import MACHINES, playing
from support.passes import batch_of, logits_and_gradients

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.fast import self_attention
from lora_scratch.fast.frozen_weights import with_frozen_weights_in
from lora_scratch.fast.fused_lora import fused_updates
from lora_scratch.fast.onednn import can_be_packed
from lora_scratch.fast.packed import packed
from lora_scratch.fast.packing import pack
from lora_scratch.fast.path import fast_path
from lora_scratch.fast.self_attention import SelfAttention, self_attentions
from lora_scratch.model.families import FAMILIES
from lora_scratch.runtime.precision import Precision
from lora_scratch.testing import move_adapter

pytestmark = pytest.mark.skipif(not can_be_packed(torch.empty(2, 2), torch.float32), reason="this torch packs no weights")
HEADS, HIDDEN, LENGTHS = 2, 32, [5, 2, 7]
NAMES = ["bert", "distilbert", "roberta"]


def model_of(family="bert", **options):
    """A frozen model with adapters away from their start; alpha is not the rank."""
    settings = {"rank": 3, "alpha": 5, "dropout": 0.0} | options
    model = inject(tiny(family), LoRAConfig(**settings)).train()
    for layer in adapter_layers(model).values():
        move_adapter(layer)
    return model


def attention_of(model):
    """The self-attention module of the first block."""
    first = FAMILIES[model.config.model_type].query_key_value[0]
    return next(module for module in model.modules() if hasattr(module, first))


def projections_of(model):
    module = attention_of(model)
    return [getattr(module, name) for name in FAMILIES[model.config.model_type].query_key_value]


@contextmanager
def levers(model, dtype=torch.float32):
    """Those that the node is built on, then the node."""
    with ExitStack() as stack:
        stack.enter_context(with_frozen_weights_in(model, dtype))
        stack.enter_context(fused_updates(model))
        stack.enter_context(packed(model))
        stack.enter_context(self_attentions(model))
        yield


def packing_of(lengths=LENGTHS, multiple=1):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return pack(mask.long(), heads=HEADS, multiple=multiple)


def formula(model, x, lengths=LENGTHS):
    """softmax(q kᵀ · d^-½) v of each row and head alone, in float64, with q, k, v = x (W + ΔW)ᵀ + b by the dense ΔW."""
    q, k, v = (_projected(layer, x).view(len(x), HEADS, -1) for layer in projections_of(model))
    rows = zip(*(part.split(lengths) for part in (q, k, v)), strict=True)
    scale = (HIDDEN // HEADS) ** -0.5
    mixed = [torch.einsum("hij,jhd->ihd", (torch.einsum("ihd,jhd->hij", q, k) * scale).softmax(-1), v) for q, k, v in rows]
    y = torch.cat(mixed).reshape(len(x), HIDDEN)
    output = getattr(attention_of(model), "out_lin", None)
    return y if output is None else y @ output.weight.double().T + output.bias.double()


def _projected(layer, x):
    y = x @ layer.weight.double().T + layer.bias.double()
    adapted = hasattr(layer, "lora_A") and layer.enabled
    return y + x @ (layer.scaling * layer.lora_B.double() @ layer.lora_A.double()).T if adapted else y


def seeded(model, x, packing):
    """The output of the module, with the masks of one seed."""
    torch.manual_seed(3)
    return attention_of(model)(x[None], None, packing=packing)[0]


def gradients(y, x, model, weights):
    trained = [p for p in attention_of(model).parameters() if p.requires_grad]
    return torch.autograd.grad((y * weights.to(y.dtype)).sum(), [x, *trained])


def case(model, multiple=1):
    """Tokens that want a gradient, in float32 and float64, their packing, and a weight for every entry of the output."""
    torch.manual_seed(1)
    packing, count = packing_of(multiple=multiple), sum(LENGTHS)
    exact = torch.randn(count, HIDDEN, dtype=torch.float64, requires_grad=True)
    filled = torch.nn.functional.pad(exact.detach().float(), (0, 0, 0, packing.fillers)).requires_grad_()
    return exact, filled, packing, torch.randn(count, HIDDEN, dtype=torch.float64)


@pytest.fixture
def computed(monkeypatch):
    """How often the node computed."""
    calls = []
    original = SelfAttention._update
    monkeypatch.setattr(SelfAttention, "_update", lambda self, x: calls.append(1) or original(self, x))
    return calls


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("updates", ["all", "none", "off"])
def test_output_and_every_gradient_are_those_of_the_dense_formula(family, multiple, updates, computed):
    """Float64 against float32: 1e-5 of the largest entry. With fillers too, which get a gradient of 0."""
    outside = {"targets": ["out_lin" if family == "distilbert" else "attention.output.dense"]}
    model = model_of(family, **(outside if updates == "none" else {}))
    for layer in adapter_layers(model).values():
        layer.enabled = updates == "all"
        layer.requires_grad_(requires_grad=updates == "all").base.requires_grad_(requires_grad=False)
    exact, x, packing, weights = case(model, multiple)
    expected = formula(model, exact)
    with levers(model):
        y = attention_of(model)(x[None], None, packing=packing)[0][0]
    assert computed == [1]
    count = sum(LENGTHS)
    found, wanted = gradients(y[:count], x, model, weights), gradients(expected, exact, model, weights)
    pairs = [(y[:count], expected), *zip(found, wanted, strict=True)]
    assert not pairs[1][0][count:].any()
    for left, right in pairs:
        assert (left[: len(right)] - right).abs().max() <= 1e-5 * right.abs().max()
    assert len(pairs) == 2 + 6 * (updates == "all")


def test_gradients_with_dropout_are_those_of_the_very_masks_that_were_drawn():
    """With the generator put back every call draws the same masks: the loss's slope along a direction is the gradient's."""
    model = model_of(dropout=0.4)
    attention_of(model).dropout.p = 0.3
    exact, _, packing, weights = case(model)
    trained = [p for p in attention_of(model).parameters() if p.requires_grad]
    directions = [torch.randn(x.shape) for x in (exact, *trained)]
    starts = [p.detach().clone() for p in trained]

    def loss(step):
        torch.manual_seed(5)
        x = (exact.detach().float() + step * directions[0]).requires_grad_()
        for p, start, direction in zip(trained, starts, directions[1:], strict=True):
            p.data = start + step * direction
        return (attention_of(model)(x[None], None, packing=packing)[0][0] * weights).sum(), x

    with levers(model):
        value, x = loss(0.0)
        found = torch.autograd.grad(value, [x, *trained])
        with torch.no_grad():  # Richardson: two central differences whose leading errors cancel
            wide, narrow = ((loss(h)[0] - loss(-h)[0]) / (2 * h) for h in (0.04, 0.02))
    slope = sum((g * d).sum() for g, d in zip(found, directions, strict=True))
    assert float(slope) == pytest.approx(float((4 * narrow - wide) / 3), rel=2e-3)


def test_dropout_of_the_updates_keeps_the_mean():
    """The output is linear in the update of the values: over many draws its mean is that without dropout."""
    model = model_of(dropout=0.3)
    for layer in projections_of(model)[:2]:
        torch.nn.init.zeros_(layer.lora_B)
    _, x, packing, _ = case(model)
    with levers(model), torch.no_grad():
        draws = torch.stack([attention_of(model)(x[None], None, packing=packing)[0] for _ in range(3000)])
        model.eval()
        expected = attention_of(model)(x[None], None, packing=packing)[0]
    error = (draws.std(0) / len(draws) ** 0.5).clamp_min(1e-6)
    assert ((draws.mean(0) - expected).abs() < 5 * error).all()
    assert draws.std(0).max() > 0.01


def test_nothing_is_dropped_in_evaluation():
    """Neither inputs of updates nor weights of attention."""
    model = model_of(dropout=0.3).eval()
    attention_of(model).dropout.p = 0.3
    exact, x, packing, _ = case(model)
    with levers(model), torch.no_grad():
        found = attention_of(model)(x[None], None, packing=packing)[0][0]
    expected = formula(model, exact.detach())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_each_update_has_a_mask_of_its_own(monkeypatch):
    """One draw for all three, in their shape."""
    shapes, original = [], self_attention.keep_mask
    monkeypatch.setattr(self_attention, "keep_mask", lambda x, p: shapes.append(x.shape) or original(x, p))
    model = model_of(dropout=0.3)
    _, x, packing, _ = case(model)
    with levers(model):
        attention_of(model)(x[None], None, packing=packing)
    assert shapes == [(3, sum(LENGTHS), HIDDEN)]


def _second(model):
    return projections_of(model)[1]


def _set(name, value, model):
    setattr(_second(model), name, value)


UNLIKE = {
    "a hook on a layer": lambda m: _second(m).register_forward_hook(lambda *_: None),
    "a hook before a base": lambda m: _second(m).base.register_forward_pre_hook(lambda *_: None),
    "a hook on gradients": lambda m: _second(m).register_full_backward_hook(lambda *_: None),
    "another scaling": partial(_set, "scaling", 0.5),
    "one update off": partial(_set, "enabled", False),
    "one layer in evaluation": lambda m: _second(m).eval(),
    "another dropout": lambda m: setattr(_second(m).dropout, "p", 0.5),
    "a dropout of another kind": partial(_set, "dropout", torch.nn.Identity()),
    "one merged": lambda m: _second(m).merge(),
    "all merged": lambda m: [layer.merge() for layer in projections_of(m)],
}
OTHER = {
    "another rank": {"rank_pattern": {"key": 2}},
    "two targets": {"targets": ["query", "value"]},
    "another variant": {"variant": "dora"},
    "trained biases": {"bias": "lora_only"},
}


@pytest.mark.parametrize("change", UNLIKE)
def test_layers_that_differ_are_computed_one_by_one(change, computed):
    """Whether they did before or do so later: the output is the usual one, and the node is not used."""
    model = model_of()
    _, x, packing, _ = case(model)
    with levers(model):
        UNLIKE[change](model)
        found = seeded(model, x, packing)
    with with_frozen_weights_in(model, torch.float32), fused_updates(model), packed(model):
        expected = seeded(model, x, packing)
    assert torch.equal(found, expected)
    assert not computed


@pytest.mark.parametrize("options", OTHER.values(), ids=OTHER)
def test_adapters_of_another_kind_are_computed_one_by_one(options, computed):
    """The node knows three updates of one shape and nothing else."""
    model = model_of(**options)
    _, x, packing, _ = case(model)
    with levers(model):
        found = seeded(model, x, packing)
    with with_frozen_weights_in(model, torch.float32), fused_updates(model), packed(model):
        expected = seeded(model, x, packing)
    assert torch.equal(found, expected)
    assert not computed


def test_padded_rows_and_rows_of_one_token_are_computed_one_by_one(computed):
    """The node reads tokens of rows with more than one token, and no padding."""
    model = model_of().eval()
    with levers(model), torch.no_grad():
        model(input_ids=torch.tensor([[0, 5, 7]]), attention_mask=torch.tensor([[0, 1, 1]]))
        model(input_ids=torch.tensor([[5], [7]]), attention_mask=torch.ones(2, 1, dtype=torch.long))
    assert not computed


@pytest.mark.parametrize("family", NAMES)
def test_the_fast_path_computes_every_block_but_the_last_so(family, computed):
    """In training and in evaluation, where bfloat16 is packed; afterwards each module has its own forward again."""
    with playing(MACHINES["AVX-512 with bfloat16"], torch.bfloat16):
        model, batch = model_of(family, dropout=0.1), batch_of([7, 3])
        with fast_path(model, Precision(torch.bfloat16, torch.device("cpu"))):
            logits_and_gradients(model, batch, autocast=True)
            model.eval()
            logits_and_gradients(model, batch, autocast=True)
    assert len(computed) == 2 * (model.config.num_hidden_layers - 1)
    assert "forward" not in vars(attention_of(model))


def test_an_error_inside_leaves_the_modules_as_they_were():
    """A training that fails has changed no module."""
    model = model_of()
    with suppress(ZeroDivisionError), levers(model):
        raise ZeroDivisionError
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_the_packing_of_three_holds_queries_then_keys_then_values():
    """Rows of each, as its own packing copies them, and back."""
    packing = packing_of(multiple=32)
    count = sum(LENGTHS) + packing.fillers
    tokens = torch.randn(count, 3, HEADS, 4)
    rows = self_attention.to_rows(tokens.view(-1, 4), packing.of_three)
    for part, each in zip(rows.chunk(3), tokens.unbind(1), strict=True):
        assert torch.equal(part, self_attention.to_rows(each.reshape(-1, 4), packing))
    back = self_attention.to_tokens(rows, packing.of_three).view(count, 3, HEADS, 4)
    assert torch.equal(back[: sum(LENGTHS)], tokens[: sum(LENGTHS)])
    assert not back[sum(LENGTHS) :].any()
