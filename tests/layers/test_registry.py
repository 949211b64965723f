"""lora_scratch/layers/registry.py: which adapter layer wraps which base layer."""

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_scratch.layers import (
    DoRALinear,
    LoRAConv1D,
    LoRAEmbedding,
    LoRALinear,
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
@pytest.mark.parametrize("base", [nn.Linear, "transformers.pytorch_utils.Conv1D"])
def test_register_refuses_a_pair_that_is_taken(base):
    """And says by whom; the same class again is no harm."""
    register("lora", nn.Linear)(LoRALinear)
    with pytest.raises(ValueError, match=r"lora on .* is LoRA(Linear|Conv1D) already"):
        register("lora", base)(DoRALinear)
