"""lora_scratch/deploy/rounding.py: what is left of ΔW, by hand, against the dense formula, and in what a merge stores."""

import pytest
import torch
from support.families import record, tiny
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_and_remove
from lora_scratch.deploy.rounding import survival, weight_survival
from lora_scratch.testing import move_adapter

NARROW = [torch.bfloat16, torch.float16]


def adapted(family="distilbert", *, dtype=torch.float32, size=0.2, **options):
    model = inject(tiny(family).to(dtype), LoRAConfig(**{"rank": 4, "alpha": 6, "head_modules": []} | options))
    move_adapter(model, size=size)
    return model


def test_figures_of_a_case_worked_by_hand():
    """From 1 to 2, bfloat16 moves in steps of 1/128: a whole step stays, a quarter is lost, three quarters become one."""
    step = 2**-7
    weight, delta = torch.ones(4), step * torch.tensor([1.0, 0.25, 0.75, 0.0])
    row = weight_survival("w", weight, delta, (weight + delta).bfloat16())
    size = 1 + 0.25**2 + 0.75**2  # ‖ΔW‖² in steps
    assert row.relative_norm == pytest.approx(step * size**0.5 / 2)
    assert row.survived == pytest.approx((1 + 0.75) / size)
    assert row.error == pytest.approx(((0.25**2 + 0.25**2) / size) ** 0.5)
    assert row.unchanged == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("distilbert", {}),
        ("distilbert", {"variant": "dora"}),
        ("distilbert", {"init": "pissa"}),
        ("gpt2", {"targets": ["c_attn", "wte"]}),
    ],
    ids=["lora", "dora", "pissa", "conv1d and embedding"],
)
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
def test_figures_are_those_of_the_weights_that_a_merge_leaves(family, options, dtype):
    """Against the merged and rounded model itself; looking changes nothing."""
    model = adapted(family, **options)
    before = record(model)
    rows = survival(model, dtype)
    assert record(model) == before
    exact = {
        name: layer.effective_weight().double() - layer.weight.double() for name, layer in adapter_layers(model).items()
    }
    merge_and_remove(model).to(dtype)
    base = tiny(family).to(dtype)
    assert [row.name for row in rows] == list(exact)
    for row in rows:
        found = (model.get_submodule(row.name).weight.double() - base.get_submodule(row.name).weight.double()).detach()
        delta = exact[row.name].detach()
        assert row.error == pytest.approx(((found - delta).norm() / delta.norm()).item(), rel=1e-2, abs=1e-6)
        assert row.survived == pytest.approx(((found * delta).sum() / delta.square().sum()).item(), rel=1e-3)
        assert row.unchanged == pytest.approx((found == 0)[delta != 0].double().mean().item(), abs=1e-3)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 1e-4), (torch.float16, 1e-5)], ids=str)
def test_a_small_update_is_lost_on_a_base_that_lies_on_the_steps(dtype, size):
    """A weight of that dtype swallows what a float32 weight lets through on average."""
    on_steps, between = survival(adapted(dtype=dtype, size=size), dtype), survival(adapted(size=size), dtype)
    for narrow, wide in zip(on_steps, between, strict=True):
        assert narrow.survived < 0.9 < wide.survived
        assert narrow.error < wide.error  # no crossings
        assert narrow.unchanged > 0.5


def test_nothing_survives_an_update_far_below_a_step():
    """All of it is lost, and the error is that of no adapter."""
    row = weight_survival("w", torch.ones(8), torch.full((8,), 1e-5), (torch.ones(8) + 1e-5).bfloat16())
    assert (row.survived, row.error, row.unchanged) == (0, 1, 1)


def test_float32_keeps_the_update():
    """Seven digits of it."""
    for row in survival(adapted(), torch.float32):
        assert row.survived == pytest.approx(1, abs=1e-6)
        assert row.error < 1e-5


def test_an_update_of_zero_is_wholly_there():
    """Straight after injection, and nothing is divided by its norm; a base of zeros has no size to compare with."""
    for row in survival(inject(tiny_distilbert(), LoRAConfig(rank=2)), torch.bfloat16):
        assert (row.relative_norm, row.survived, row.error, row.unchanged) == (0, 1, 0, 0)
    assert weight_survival("w", torch.zeros(2), torch.ones(2), torch.ones(2).half()).relative_norm == float("inf")
