"""lora_scratch/deploy/bank_layers.py: any row through any slot is that row through the slot's own layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_scratch.deploy.bank_layers import BankEmbedding, BankLinear, Routing
from lora_scratch.deploy.bank_layers import _gain as gain
from lora_scratch.layers import AdapterLayer, DoRALinear, LoRAConv1D, LoRAEmbedding, LoRALinear, NF4Linear, OffsetLoRALinear
from lora_scratch.testing import check_all, move_adapter, relative_error

IDS = torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(0))


def route(bank, rows, strength=1.0):
    """Name the slots of a batch, and strengths in the dtype that the slots have."""
    dtype = torch.promote_types(bank.weight.dtype, torch.float32)
    bank.routing.rows = torch.tensor(rows)
    bank.routing.strength = torch.as_tensor(strength, dtype=dtype).expand(len(rows))


def in_bank(kind, bank_kind):
    """The class `kind` with a forward that goes through a slot of a bank, between two other slots."""

    class Banked(kind):
        def forward(self, x):
            if self.merged or not self.enabled:
                return super().forward(x)
            bank = bank_kind(self.base, Routing(), slots=4, rank=self.rank + 1)
            other = kind(self.base, 3, 7)
            move_adapter(other, seed=5)
            self.__class__ = kind
            try:
                for slot, layer in ((1, other), (2, self), (3, other)):
                    bank.write(slot, layer)
            finally:
                self.__class__ = Banked
            route(bank, [2] * len(x))
            return bank(x)

    return Banked


LAYERS = {
    "lora": (lambda: in_bank(LoRALinear, BankLinear)(nn.Linear(6, 4), 2, 3), torch.randn(3, 5, 6)),
    "lora, no bias": (lambda: in_bank(LoRALinear, BankLinear)(nn.Linear(6, 4, bias=False), 2, 3), torch.randn(5, 6)),
    "rslora": (lambda: in_bank(LoRALinear, BankLinear)(nn.Linear(6, 4), 3, 5, rslora=True), torch.randn(2, 3, 5, 6)),
    "conv1d": (lambda: in_bank(LoRAConv1D, BankLinear)(Conv1D(4, 6), 2, 3), torch.randn(3, 5, 6)),
    "dora": (lambda: in_bank(DoRALinear, BankLinear)(nn.Linear(6, 4), 2, 3), torch.randn(3, 5, 6)),
    "dora on conv1d": (lambda: in_bank(DoRALinear, BankLinear)(Conv1D(4, 6), 2, 3), torch.randn(3, 5, 6)),
    "embedding": (lambda: in_bank(LoRAEmbedding, BankEmbedding)(nn.Embedding(9, 5), 2, 3), IDS),
}


@pytest.mark.parametrize("name", LAYERS)
def test_slot_obeys_the_laws_of_the_layer_in_it(name):
    """All of lora_scratch.testing that do not speak of training."""
    make, x = LAYERS[name]
    dora = ["low_rank", "linear_in_scaling"] if "dora" in name else []
    check_all(make, x, skip=["gradients", "base_frozen", "start_learns", *dora])


def some_layer(kind, base, rank, seed):
    """A layer of that kind around `base`, moved away from its start, in float64."""
    if kind == "bias":
        twin = nn.Linear(base.in_features, base.out_features).double()
        twin.load_state_dict({"weight": base.weight, "bias": base.bias + torch.arange(base.out_features)})
        return twin
    layer = {"lora": LoRALinear, "dora": DoRALinear, "offset": OffsetLoRALinear}[kind](base, rank, rank + 1)
    if kind == "offset":
        layer.start_at(torch.randn(rank, base.in_features), torch.randn(base.out_features, rank))
    move_adapter(layer, seed=seed)
    return layer.double().eval()


@given(
    kinds=st.lists(st.tuples(st.sampled_from(["lora", "dora", "offset", "bias"]), st.integers(1, 2)), max_size=4),
    sizes=st.tuples(st.integers(4, 6), st.integers(4, 6), st.lists(st.integers(1, 3), max_size=2)),
    room=st.integers(1, 3),
    data=st.data(),
)
def test_every_row_is_the_row_through_its_own_layer(kinds, sizes, room, data):
    """Kinds and ranks of all slots, shapes, rows and strengths at will: equal to layer after layer, to 1e-12 in float64."""
    inner, outer, middle = sizes
    rows = data.draw(st.lists(st.integers(0, len(kinds)), min_size=1, max_size=5))
    strength = data.draw(st.lists(st.sampled_from([1.0, 0.3, 0.0, -2.0]), min_size=len(rows), max_size=len(rows)))
    base = nn.Linear(inner, outer).double()
    layers = [base, *(some_layer(kind, base, rank, seed) for seed, (kind, rank) in enumerate(kinds))]
    bank = BankLinear(base, Routing(), slots=len(layers), rank=room)
    for slot, layer in enumerate(layers):
        bank.write(slot, layer)
    x = torch.randn(len(rows), *middle, inner, dtype=torch.float64)
    route(bank, rows, strength)
    found = bank(x)
    for i, (row, t) in enumerate(zip(rows, strength, strict=True)):
        scaling = getattr(layers[row], "scaling", 1.0)
        layers[row].scaling = t * scaling
        assert relative_error(found[i], layers[row](x[i])) < 1e-12
        layers[row].scaling = scaling


def pair(*, rank=2, slots=4):
    """A bank with two moved layers of other ranks in slots 1 and 2, and the layers."""
    base = nn.Linear(6, 4)
    bank = BankLinear(base, Routing(), slots=slots, rank=rank)
    layers = [LoRALinear(base, 2, 3), LoRALinear(base, 3, 5)]
    for slot, layer in enumerate(layers, 1):
        move_adapter(layer, seed=slot)
        bank.write(slot, layer)
    return bank, layers


def stacks(bank):
    """The bank's buffers, copied."""
    return {name: buffer.clone() for name, buffer in bank.named_buffers(recurse=False)}


def test_base_slot_is_the_base_bit_for_bit():
    """Zeros are added, and nothing else is computed."""
    bank, _ = pair()
    x = torch.randn(3, 5, 6)
    route(bank, [0, 0, 0])
    assert torch.equal(bank(x), bank.base(x))


def test_writing_a_slot_leaves_the_others_bit_for_bit():
    """Also when the rank has to grow; and what was in the slot before is gone, all of it."""
    bank, layers = pair(rank=1)
    before = stacks(bank)
    wide = DoRALinear(bank.base, 4, 5)
    move_adapter(wide)
    bank.write(3, wide)
    for name, stack in stacks(bank).items():
        if name in before:
            old = before[name]
            assert torch.equal(stack[:3][tuple(slice(n) for n in old[:3].shape)], old[:3])
    assert bank.lora_A.shape == (4, 4, 6)
    bank.write(3, layers[0])
    assert torch.equal(bank.lora_A[3], bank.lora_A[1])
    assert torch.equal(bank.lora_B[3], bank.lora_B[1])
    assert torch.equal(bank.gain_terms[3], bank.gain_terms[1])
    bank.write(3, bank.base)
    assert not bank.lora_A[3].any()
    assert not bank.lora_B[3].any()


def test_slots_can_grow():
    """Those that were there keep every bit."""
    bank, _ = pair(slots=3)
    before = stacks(bank)
    bank.grow(5)
    assert all(torch.equal(getattr(bank, name)[:3], stack) for name, stack in before.items())
    assert bank.lora_B.shape == (5, 4, 3)


def test_nothing_has_been_asked_for_from_the_start_costs_nothing():
    """Without a slot that needs it there is no buffer, and the output is the base's own."""
    bank = BankLinear(nn.Linear(6, 4), Routing(), slots=3)
    bank.write(1, bank.base)
    assert not stacks(bank)
    route(bank, [1, 2])
    x = torch.randn(2, 6)
    assert torch.equal(bank(x), bank.base(x))


def test_layer_norm_takes_biases():
    """The bias of the slot, in place of the base's."""
    base, twin = nn.LayerNorm(6), nn.LayerNorm(6)
    nn.init.normal_(twin.bias)
    bank = BankLinear(base, Routing(), slots=2)
    bank.write(1, twin)
    x = torch.randn(3, 2, 6)
    route(bank, [1, 0, 1])
    torch.testing.assert_close(bank(x), torch.stack([twin(x[0]), base(x[1]), twin(x[2])]))


def test_dora_row_of_zeros_stays_zero():
    """Such a row has no direction: no NaN comes out of 0 / 0."""
    base = nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        base.weight[1] = 0
    bank = BankLinear(base, Routing(), slots=2)
    bank.write(1, DoRALinear(base, 2, 3))
    route(bank, [1, 0])
    assert not bank(torch.randn(2, 6))[:, 1].any()


def test_dora_norm_that_rounds_below_zero_is_zero():
    """And not the root of a negative number."""
    terms = torch.tensor([1, 1, -1, 1 - 1e-6]).view(1, 4, 1)
    assert torch.equal(gain(terms, torch.ones(1)), torch.zeros(1, 1, 1))


@pytest.mark.parametrize(("room", "rank"), [(1, 2), (3, 3), (99, 4)])
def test_room_is_made_for_ranks_that_the_layer_can_have(room, rank):
    """From the first slot on as much as was asked for, and no more than the smaller side of the layer."""
    linear = BankLinear(nn.Linear(6, 4), Routing(), slots=2, rank=room)
    linear.write(1, LoRALinear(linear.base, 2, 3))
    assert (linear.lora_A.shape, linear.lora_B.shape) == ((2, rank, 6), (2, 4, rank))
    table = BankEmbedding(nn.Embedding(9, 4), Routing(), slots=2, rank=room)
    table.write(1, LoRAEmbedding(table.base, 2, 3))
    assert (table.lora_A.shape, table.lora_B.shape) == ((2, 9, rank), (2, 4, rank))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_strength_and_factors_are_rounded_once_under_autocast(dtype):
    """Equal to the layer of its own with a scaling t times as large, to that dtype's tolerance; and in that dtype."""
    bank, _ = pair()
    x = torch.randn(2, 5, 6)
    route(bank, [1, 2], 0.3)
    exact = bank.double()(x.double())
    bank.float()
    with torch.autocast("cpu", dtype=dtype):
        found = bank(x)
    assert found.dtype is dtype
    assert relative_error(found, exact) < {torch.bfloat16: 6e-2, torch.float16: 8e-3}[dtype]


@pytest.mark.parametrize("make", [lambda r: pair_embedding(r), lambda r: pair()[0]])
def test_rows_that_are_not_named_are_an_error(make):
    """Nothing is guessed, and switched off nothing is asked."""
    routing = Routing()
    bank = make(routing)
    x = IDS if isinstance(bank, BankEmbedding) else torch.randn(3, 5, 6)
    with pytest.raises(
        RuntimeError, match=r"^no row of the batch has named its adapter; call the model inside `with bank.rows\(\[...\]\)`$"
    ):
        bank(x)
    bank.routing.enabled = False
    assert torch.equal(bank(x), bank.base(x))


@pytest.mark.parametrize("rows", [[1], [1, 2], [1, 2, 1, 2]])
def test_another_number_of_rows_is_an_error(rows):
    """Also one row for all and a packed batch, which broadcasting would have taken."""
    bank, _ = pair()
    route(bank, rows)
    with pytest.raises(ValueError, match=rf"3 rows where {len(rows)} have named .* not packed or shared"):
        bank(torch.randn(3, 5, 6))


def pair_embedding(routing):
    """A bank of one moved embedding."""
    bank = BankEmbedding(nn.Embedding(9, 5), routing, slots=2)
    layer = LoRAEmbedding(bank.base, 2, 3)
    move_adapter(layer)
    bank.write(1, layer)
    return bank


def test_embedding_slots_of_the_base_are_zero():
    """A table as it is empties the slot."""
    bank = pair_embedding(Routing())
    route(bank, [1, 0, 1])
    assert not torch.equal(bank(IDS), bank.base(IDS))
    bank.write(1, bank.base)
    assert torch.equal(bank(IDS), bank.base(IDS))


def test_layer_of_an_unknown_kind_is_refused():
    """What a subclass computes is not known to be LoRA; the slot stays."""

    class Mine(LoRALinear):
        pass

    bank, _ = pair()
    before = stacks(bank)
    with pytest.raises(ValueError, match="a Mine can't stand in a bank; expected LoRA or DoRA"):
        bank.write(1, Mine(bank.base, 2, 3))
    assert all(torch.equal(getattr(bank, name), stack) for name, stack in before.items())


def test_gradients_would_reach_the_named_slots_alone():
    """The gathered product is differentiable: A and B of a slot get the layer's own gradient, the base none."""
    bank, layers = pair()
    bank.base.requires_grad_(False)
    x = torch.randn(2, 5, 6)
    route(bank, [2, 0])
    bank.lora_A.requires_grad_()
    bank.lora_B.requires_grad_()
    bank(x).square().sum().backward()
    layers[1](x[:1]).square().sum().backward()
    torch.testing.assert_close(bank.lora_A.grad[2], layers[1].lora_A.grad)
    torch.testing.assert_close(layers[1].scaling * bank.lora_B.grad[2], layers[1].lora_B.grad)
    assert not bank.lora_A.grad[[0, 1, 3]].any()
    assert bank.base.weight.grad is None


def test_bank_layer_is_no_adapter_layer():
    """Merging, saving and counting adapters pass it by; weight and bias can be read as before."""
    bank, _ = pair()
    assert not isinstance(bank, AdapterLayer)
    assert bank.weight is bank.base.weight
    assert bank.bias is bank.base.bias
    assert set(bank.state_dict()) == {"base.weight", "base.bias"}


@pytest.mark.parametrize(("kind", "base"), [(BankLinear, nn.Linear(6, 4)), (BankEmbedding, nn.Embedding(9, 4))])
def test_a_new_bank_holds_nothing_and_saves_nothing_but_its_base(kind, base):
    """Slots take no room before they are written, and are no part of a checkpoint of the model, then or later."""
    bank = kind(base, Routing(), slots=3)
    assert (bank.lora_A, bank.lora_B, bank.routing.rows, bank.routing.strength) == (None,) * 4
    keys = {f"base.{name}" for name in base.state_dict()}
    assert bank.state_dict().keys() == keys
    layer = (LoRALinear if kind is BankLinear else LoRAEmbedding)(base, 1, 2)
    move_adapter(layer)
    bank.write(1, layer)
    assert bank.state_dict().keys() == keys
    assert 1 in bank.lora_A.shape
    assert bank.lora_B.shape[0] == 3


def test_growing_leaves_the_buffers_of_the_base_alone():
    """A four-bit base keeps its weight in buffers of its own; only slots become more."""
    layer = BankLinear(NF4Linear(nn.Linear(64, 4)), Routing(), slots=2)
    before = list(layer.state_dict())
    layer.grow(4)
    assert list(layer.state_dict()) == before


def test_the_base_written_to_an_embedding_slot_leaves_the_others():
    """Zeros for that slot alone."""
    layer = BankEmbedding(nn.Embedding(7, 4), Routing(), slots=3)
    twin = LoRAEmbedding(nn.Embedding(7, 4), rank=2)
    move_adapter(twin)
    layer.write(1, twin)
    before = layer.lora_A[1].clone()
    layer.write(2, nn.Embedding(7, 4))
    assert before.any()
    assert torch.equal(layer.lora_A[1], before)
