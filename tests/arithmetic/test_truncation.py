"""lora_scratch/arithmetic/truncation.py: the nearest update with so many directions in all, and no worse than it says."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import logits, record, tiny

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, remove_adapter
from lora_scratch.arithmetic.truncation import choose_ranks, decompose, kept_energy, truncate
from lora_scratch.arithmetic.update import install_update, take_update
from lora_scratch.errors import ConfigError
from lora_scratch.study.anatomy import LowRankSVD
from lora_scratch.testing import move_adapter, relative_error

Q0 = "distilbert.transformer.layer.0.attention.q_lin"


def adapted(family="distilbert", **options):
    """An adapter away from its start, its modules of different strength."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options), seed=1)
    move_adapter(model, seed=1)
    with torch.no_grad():
        for number, layer in enumerate(adapter_layers(model).values()):
            for tensor in layer.adapter_tensors().values():
                tensor.mul_(0.8**number)
    return model


def spectra(*values):
    """Decompositions with these singular values; the directions do not matter."""
    return {
        name: LowRankSVD(torch.eye(9)[:, : len(each)], torch.tensor(each, dtype=torch.float64), torch.eye(7)[:, : len(each)])
        for name, each in zip("abcdefgh", values, strict=False)
    }


def dense(factors):
    return factors.lora_B @ factors.lora_A


def best_by_count(found):
    """The most energy that so many directions can hold, by trying every choice of ranks."""
    best = {}
    for ranks in itertools.product(*(range(len(each.S) + 1) for each in found.values())):
        share = kept_energy(found, dict(zip(found, ranks, strict=True)))
        best[sum(ranks)] = max(best.get(sum(ranks), 0.0), share)
    return best


@given(
    values=st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=3), min_size=1, max_size=4),
    energy=st.floats(0.01, 0.99),
)
def test_ranks_are_the_fewest_directions_that_hold_the_energy(values, energy):
    """Of all choices of as many directions none holds more, and none of fewer holds enough."""
    found = spectra(*(sorted(each, reverse=True) for each in values))
    ranks, best = choose_ranks(found, energy), best_by_count(found)
    count = sum(ranks.values())
    assert kept_energy(found, ranks) == pytest.approx(best[count], rel=1e-12)
    assert best[count] >= energy - 1e-12
    assert best[count - 1] < energy + 1e-12


def test_ranks_by_hand():
    """Σσ² = 9 + 4 + 1 + 4 + 2 = 20: 17 of it is 85 %, and the weak module is left out."""
    found = spectra([3.0, 2.0, 1.0], [2.0], [2.0**0.5])
    assert choose_ranks(found, 0.85) == {"a": 2, "b": 1, "c": 0}
    assert choose_ranks(found, 0.85001) == {"a": 2, "b": 1, "c": 1}
    assert choose_ranks(found, 1) == {"a": 3, "b": 1, "c": 1}
    assert kept_energy(found, {"a": 2, "b": 1, "c": 0}) == pytest.approx(17 / 20)


@pytest.mark.parametrize("family", ["distilbert", "gpt2"])
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_what_is_lost_is_the_tail_of_the_singular_values(family, energy):
    """Eckart and Young, in every module against the dense SVD in float64; in all, the energy that was given up."""
    update = take_update(adapted(family, targets=["c_attn", "wte"] if family == "gpt2" else None))
    found = decompose(update)
    ranks = choose_ranks(found, energy)
    smaller = truncate(update, found, ranks)
    lost = whole = 0.0
    for name, factors in update.factors.items():
        exact = dense(factors)
        left = dense(smaller.factors[name]) if name in smaller.factors else torch.zeros_like(exact)
        tail = torch.linalg.svdvals(exact)[ranks[name] :].norm()
        assert (exact - left).norm() == pytest.approx(tail.item(), rel=1e-9, abs=1e-12)
        lost, whole = lost + (exact - left).norm().item() ** 2, whole + exact.norm().item() ** 2
    assert 1 - lost / whole == pytest.approx(kept_energy(found, ranks), rel=1e-12)
    assert 1 - lost / whole >= energy


def test_an_adapter_of_rank_2_stored_at_rank_8_falls_to_rank_2_with_the_same_logits():
    """Energy 1 gives up rounding and nothing else, also where every stored direction is full of numbers."""
    model = inject(tiny("distilbert"), LoRAConfig(rank=8, alpha=6, dropout=0.0), seed=1)
    move_adapter(model, seed=1)
    with torch.no_grad():
        for number, layer in enumerate(adapter_layers(model).values()):
            mix = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(number))).Q
            layer.lora_A.copy_(mix[:, :2] @ layer.lora_A[:2])
            layer.lora_B.copy_(layer.lora_B @ mix.T)
    expected, update = logits(model), take_update(model)
    found = decompose(update)
    ranks = choose_ranks(found, 1)
    assert set(ranks.values()) == {2}
    install_update(remove_adapter(model), truncate(update, found, ranks)).eval()
    assert {layer.rank for layer in adapter_layers(model).values()} == {2}
    assert relative_error(logits(model), expected.double()) <= 1e-5


def test_a_module_of_rank_0_is_the_base_layer_again():
    """No adapter is around it, its neighbours and the head are as they were; and taking it all out leaves the base."""
    base, model = record(tiny("distilbert")), adapted()
    update = take_update(model)
    found = decompose(update)
    ranks = {name: 0 if name == Q0 else len(each.S) for name, each in found.items()}
    expected = logits(model)
    adapter_layers(model)[Q0].enabled = False
    without = logits(model)
    install_update(remove_adapter(model), truncate(update, found, ranks)).eval()
    assert type(model.get_submodule(Q0)) is torch.nn.Linear
    assert set(adapter_layers(model)) == set(found) - {Q0}
    assert relative_error(logits(model), without.double()) <= 1e-5
    assert relative_error(logits(model), expected.double()) > 1e-3
    assert record(remove_adapter(model)) == base


def test_a_trained_bias_keeps_its_module():
    """With lora_only a bias is trained because its module is adapted: rank 1 stays, and so does the bias."""
    model = adapted(bias="lora_only")
    with torch.no_grad():
        model.get_submodule(Q0).bias.add_(1.0)
    update = take_update(model)
    smaller = truncate(update, decompose(update), dict.fromkeys(update.factors, 0))
    assert {factors.rank for factors in smaller.factors.values()} == {1}
    install_update(remove_adapter(model), smaller)
    assert torch.allclose(model.get_submodule(Q0).bias, tiny("distilbert").get_submodule(Q0).bias + 1)


def test_a_selection_by_layer_becomes_names():
    """What said which modules no longer says it where one is left out."""
    update = take_update(adapted(layers=[1]))
    first, *others = update.factors
    smaller = truncate(update, decompose(update), {first: 0, **dict.fromkeys(others, 2)})
    assert (smaller.config.targets, smaller.config.layers, smaller.config.exclude) == (others, None, None)
    assert smaller.heads is update.heads


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.01, float("nan")])
def test_an_energy_outside_its_bounds_is_refused(energy):
    """Each with the bounds."""
    with pytest.raises(ConfigError, match=r"energy: found .*; expected above 0 and at most 1"):
        choose_ranks(spectra([1.0]), energy)


def test_an_update_of_nothing_is_refused():
    """An untrained adapter has no strongest direction."""
    update = take_update(inject(tiny("distilbert"), LoRAConfig(rank=4, alpha=6), seed=0))
    with pytest.raises(ConfigError, match="every update is zero: there is nothing to compress; expected a trained adapter"):
        choose_ranks(decompose(update), 0.9)
