"""lora_scratch/arithmetic/update.py: out of a model and back into another, and the settings that a folder then needs."""

import pytest
import torch
from support.families import logits, record, tiny
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_all, remove_adapter
from lora_scratch.adapter.config import alpha_of, rank_of
from lora_scratch.arithmetic.update import AdapterUpdate, Factors, install_update, stored_settings, take_update
from lora_scratch.errors import TargetError
from lora_scratch.serialization import load_adapter, save_adapter
from lora_scratch.testing import move_adapter, relative_error


def adapted(family="distilbert", **options):
    """Off its start, biases and heads too."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options))
    move_adapter(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_" not in name:
                p.mul_(1.1).add_(0.1)
    return model


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("distilbert", {}),
        ("roberta", {"rslora": True, "bias": "lora_only"}),
        ("gpt2", {"targets": ["c_attn", "wte"], "bias": "all"}),
        ("distilbert", {"init": "olora", "rank": 3, "rank_pattern": {"q_lin": 2}}),
        ("distilbert", {"targets": ["re:.*layer.0.*lin"], "exclude": ["q_lin"]}),
    ],
    ids=["lora", "rslora", "conv1d", "olora", "regex"],
)
def test_an_update_put_into_a_fresh_base_gives_the_models_logits(tmp_path, family, options, merged):
    """Taken, installed, saved and loaded again; taking it changes nothing."""
    model = adapted(family, **options)
    expected = logits(model)
    if merged:
        merge_all(model)
    before = record(model)
    update = take_update(model)
    assert record(model) == before
    again = install_update(tiny(family), update, seed=7)
    assert relative_error(logits(again), expected.double()) < 1e-5
    assert {layer.scaling for layer in adapter_layers(again).values()} == {1.0}
    loaded = tiny(family)
    load_adapter(loaded, save_adapter(again, tmp_path / "adapter"))
    assert torch.equal(logits(loaded), logits(again))
    assert record(remove_adapter(again)) == record(tiny(family))


def test_a_trained_bias_comes_back_bit_for_bit():
    """The difference of two float32 numbers is exact in float64, and so is the way back."""
    model = adapted(bias="all", head_modules=[])
    again = install_update(tiny_distilbert(), take_update(model))
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert all(torch.equal(model.get_parameter(name), again.get_parameter(name)) for name in biases)


def test_an_update_is_a_copy_and_putting_it_in_draws_no_number():
    """Training goes on without it; torch's random state is left alone."""
    model = adapted(bias="all")
    update = take_update(model)
    kept = [update.heads["classifier.bias"].clone(), *(factors.lora_A.clone() for factors in update.factors.values())]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    now = [update.heads["classifier.bias"], *(factors.lora_A for factors in update.factors.values())]
    assert all(map(torch.equal, kept, now))
    base, state = tiny_distilbert(), torch.get_rng_state()
    install_update(base, update)
    assert torch.equal(torch.get_rng_state(), state)


def of_ranks(ranks):
    """An update of these ranks, by module."""
    factors = {name: Factors(torch.zeros(rank, 8), torch.zeros(9, rank)) for name, rank in ranks.items()}
    return AdapterUpdate(LoRAConfig(rslora=True, init="peft", alpha=3.0), factors, {}, {}, {})


def test_settings_name_no_module_where_all_have_one_rank():
    """Alpha equals the rank: a scaling of 1."""
    settings = stored_settings(of_ranks({"a.q": 5, "b.q": 5}))
    assert (settings.rank, settings.alpha, settings.rslora, settings.init) == (5, 5.0, False, "default")
    assert settings.rank_pattern == settings.alpha_pattern == {}


def test_settings_give_each_module_its_own_rank_where_names_end_in_one_another():
    """PEFT takes the first key that matches the end of a name."""
    ranks = {"q": 1, "layer.q": 2, "other.layer.q": 3, "layerxq": 4}
    settings = stored_settings(of_ranks(ranks))
    assert {name: rank_of(settings, name) for name in ranks} == ranks
    assert {name: alpha_of(settings, name) for name in ranks} == ranks


def test_an_update_of_other_modules_is_refused_and_the_model_is_as_it_was():
    """By the name that is not there."""
    model = tiny("bert")
    before = record(model)
    with pytest.raises(TargetError, match="q_lin"):
        install_update(model, take_update(adapted(head_modules=[])))
    assert record(model) == before
