"""lora_scratch/layers/registry.py: which adapter layer wraps which base layer."""

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_scratch.layers import (
    DoRALinear,
    LoRAConv1D,
    LoRAEmbedding,
    LoRALinear,
    OffsetLoRALinear,
    adapter_class,
    adapter_variants,
    register,
)
from lora_scratch.layers.registry import _classes


@pytest.fixture
def _restored():
    """The table is afterwards what it was before."""
    before = {variant: dict(classes) for variant, classes in _classes.items()}
    yield
    _classes.clear()
    _classes.update(before)


@pytest.mark.parametrize(
    ("variant", "base", "expected"),
    [
        ("lora", nn.Linear(3, 2), LoRALinear),
        ("lora", Conv1D(2, 3), LoRAConv1D),
        ("lora", nn.Embedding(3, 2), LoRAEmbedding),
        ("dora", nn.Linear(3, 2), DoRALinear),
        ("dora", Conv1D(2, 3), DoRALinear),
        ("dora", nn.Embedding(3, 2), None),
        ("lora", nn.LayerNorm(3), None),
        ("unknown", nn.Linear(3, 2), None),
    ],
)
def test_adapter_class_is_looked_up_by_variant_and_exact_type(variant, base, expected):
    """The table of what can be adapted."""
    assert adapter_class(variant, base) is expected


def test_adapter_class_does_not_take_a_subclass():
    """A subclass may compute something else."""
    assert adapter_class("lora", type("Scaled", (nn.Linear,), {})(3, 2)) is None


@pytest.mark.usefixtures("_restored")
def test_register_enters_a_class_of_ones_own():
    """By class or by full name, as a decorator that gives the class back."""

    class Custom(LoRALinear):
        pass

    assert register("custom", nn.Linear)(Custom) is Custom
    assert register("custom", f"{Conv1D.__module__}.Conv1D")(Custom) is Custom
    assert adapter_class("custom", nn.Linear(3, 2)) is adapter_class("custom", Conv1D(2, 3)) is Custom
    assert adapter_variants() == sorted([*adapter_variants()])
    assert {"custom", "dora", "lora"} <= set(adapter_variants())


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    ("base", "message"),
    [
        (nn.Linear, "^lora on Linear is LoRALinear already$"),
        ("transformers.pytorch_utils.Conv1D", r"^lora on transformers\.pytorch_utils\.Conv1D is LoRAConv1D already$"),
    ],
)
def test_register_refuses_a_pair_that_is_taken(base, message):
    """And says by whom; the same class again is no harm."""
    register("lora", nn.Linear)(LoRALinear)
    with pytest.raises(ValueError, match=message):
        register("lora", base)(DoRALinear)


KINDS = {
    "lora": (LoRALinear, lambda: nn.Linear(18, 16)),
    "conv1d": (LoRAConv1D, lambda: tiny_conv1d(16, 18)),
    "embedding": (LoRAEmbedding, lambda: nn.Embedding(18, 16)),
    "dora": (DoRALinear, lambda: nn.Linear(18, 16)),
    "offset": (OffsetLoRALinear, lambda: nn.Linear(18, 16)),
}


@pytest.mark.parametrize(("cls", "base"), KINDS.values(), ids=KINDS)
class TestArguments:
    """Whoever looks a class up calls it without knowing which it is: the arguments mean the same to all."""

    def test_defaults_are_rank_8_alpha_16_no_dropout(self, cls, base):
        """scaling = 16 / 8."""
        layer = cls(base())
        assert (layer.rank, layer.alpha, layer.scaling) == (8, 16, 2)
        assert cls is LoRAEmbedding or layer.dropout.p == 0

    def test_arguments_are_kept_and_rslora_divides_by_the_root(self, cls, base):
        """alpha / r, or alpha / √r; the dropout is the one asked for."""
        plain, stable = (cls(base(), 4, 6.0, dropout=0.3, rslora=rslora) for rslora in (False, True))
        assert (plain.rank, plain.alpha, plain.scaling, stable.scaling) == (4, 6.0, 1.5, 3.0)
        assert cls is LoRAEmbedding or plain.dropout.p == stable.dropout.p == 0.3

    def test_generator_decides_and_the_global_state_is_not_drawn_from(self, cls, base):
        """The same seed gives the same adapter bit for bit, another one another."""
        module, state = base(), torch.get_rng_state()
        layers = [cls(module, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(torch.get_rng_state(), state)
        first, same, other = ([*layer.adapter_tensors().values()] for layer in layers)
        assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_adapter_is_born_on_the_device_of_the_base(self, cls, base):
        """Every tensor of it: the meta device stands in for any other."""
        layer = cls(base().to("meta"))
        assert {t.device.type for t in (*layer.adapter_tensors().values(), *layer.buffers())} == {"meta"}
