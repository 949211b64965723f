"""lora_scratch/adapter/toggles.py: the dial, and off in part. (Off and merged: test_inject.py and test_bias.py.)"""

import pytest
import torch
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_all, scaled, without
from lora_scratch.errors import ConfigError, MergeError
from lora_scratch.testing import move_adapter

IDS = torch.randint(1, 60, (3, 7), generator=torch.Generator().manual_seed(0))


def adapted(**options):
    """Off its start, with no head to tell apart."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=6, dropout=0, head_modules=[], **options))
    move_adapter(model)
    return model.eval()


@torch.no_grad()
def logits(model):
    """The model's answer."""
    return model(IDS).logits


def test_scaled_by_zero_is_the_base_and_by_one_the_adapter():
    """The ends of the dial."""
    model = adapted()
    trained = logits(model)
    with scaled(model, 0):
        torch.testing.assert_close(logits(model), logits(tiny_distilbert()))
    with scaled(model, 1):
        assert torch.equal(logits(model), trained)
    assert torch.equal(logits(model), trained)


def test_scaled_multiplies_every_update():
    """ΔW times the factor, in every layer; nested dials multiply."""
    model = adapted(rslora=True)
    before = {name: layer.delta_weight() for name, layer in adapter_layers(model).items()}
    with scaled(model, 0.5), scaled(model, -3):
        for name, layer in adapter_layers(model).items():
            torch.testing.assert_close(layer.delta_weight(), -1.5 * before[name])


def test_scaled_turns_the_kept_norm_of_dora_too():
    """In evaluation mode, forward and the dense weight agree at every strength."""
    model = adapted(variant="dora")
    layer, x = next(iter(adapter_layers(model).values())), torch.randn(4, 32)
    layer(x)
    with scaled(model, 0.3):
        torch.testing.assert_close(layer(x), x @ layer.effective_weight().T + layer.bias)


def test_scaled_is_undone_after_an_exception():
    """Scalings are restored bit for bit, not divided back."""
    model = adapted(alpha_pattern={"q_lin": 0.1})
    before = [layer.scaling for layer in adapter_layers(model).values()]
    with pytest.raises(KeyError), scaled(model, 1 / 3):
        raise KeyError
    assert [layer.scaling for layer in adapter_layers(model).values()] == before


def test_scaled_refuses_a_merged_model():
    """Its weights hold the update at full strength, and the dial would turn nothing, silently."""
    model = adapted()
    merge_all(model)
    with pytest.raises(MergeError, match=r"q_lin: it is merged at full strength; call unmerge_all"), scaled(model, 0.5):
        pass


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e300, -1e300])
def test_scaled_refuses_a_factor_that_no_float32_holds(factor):
    """And leaves the scalings alone."""
    model = adapted()
    with pytest.raises(ConfigError, match="a finite number"), scaled(model, factor):
        pass


def only_others(names, **options):
    """The adapted model with plain layers in place of these."""
    model = adapted(**options)
    for name in names:
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, model.get_submodule(name).base)
    return model


@pytest.mark.parametrize("options", [{}, {"variant": "dora"}, {"init": "pissa"}], ids=["lora", "dora", "pissa"])
@pytest.mark.parametrize("merged", [False, True])
def test_without_is_the_model_in_which_these_layers_have_no_adapter(options, merged):
    """Bit for bit, merged or not; and the whole adapter's bits are back afterwards."""
    model = adapted(**options)
    names = list(adapter_layers(model))[1:3]
    other = only_others(names, **options)
    for each in (model, other) if merged else ():
        merge_all(each)
    trained, expected = logits(model), logits(other)
    with without(model, names):
        assert torch.equal(logits(model), expected)
        assert not torch.equal(logits(model), trained)
        with without(model, []):
            assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), trained)


def test_without_all_is_the_base():
    """Where there is no head."""
    model = adapted()
    with without(model, adapter_layers(model).keys()):
        assert torch.equal(logits(model), logits(tiny_distilbert()))


def test_without_is_undone_after_an_exception_and_when_nested():
    """Each puts back what it found."""
    model = adapted()
    first, second, *_ = adapter_layers(model)
    with pytest.raises(KeyError), without(model, [first]), without(model, [first, second]):
        raise KeyError
    assert all(layer.enabled for layer in adapter_layers(model).values())
    with without(model, [first]):
        with without(model, [first, second]):
            pass
        assert [layer.enabled for layer in adapter_layers(model).values()][:2] == [False, True]


def test_without_refuses_a_name_that_is_no_adapted_layer():
    """A misspelt name would knock out nothing, silently."""
    model = adapted()
    with (
        pytest.raises(ConfigError, match="without: 'q_lin' is no adapted layer; expected distilbert"),
        without(model, ["q_lin"]),
    ):
        pass
