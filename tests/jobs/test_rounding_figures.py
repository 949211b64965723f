"""lora_scratch/jobs/rounding_figures.py: known values found again, and each measurement by hand."""

import pytest
import torch
from tiny import tiny_distilbert
from torch import nn

from lora_scratch.jobs.rounding_figures import (
    adapted,
    changed_by_dropping,
    changed_by_subtracting,
    drifts,
    lost_updates,
    output_errors,
    weights_of,
)

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def weights():
    """One weight of the usual width, normal with standard deviation 0.04."""
    return {"w": 0.04 * torch.randn(768, 768, generator=torch.Generator().manual_seed(1))}


def test_a_narrow_base_loses_the_part_of_an_update_that_is_known(weights):
    """bfloat16: 16.5 % at ‖ΔW‖/‖W‖ = 0.01, 78.6 % and as many entries unchanged at 0.001; float16: 2 % and 21 %."""
    lost = {(row.dtype, row.ratio): row for row in lost_updates(weights) if row.dtype == row.base_dtype}
    assert lost["bfloat16", 1e-2].error == pytest.approx(0.165, abs=0.005)
    assert lost["bfloat16", 1e-3].error == pytest.approx(0.786, abs=0.01)
    assert lost["bfloat16", 1e-3].unchanged == pytest.approx(0.78, abs=0.01)
    assert lost["float16", 1e-2].error == pytest.approx(0.02, abs=0.002)
    assert lost["float16", 1e-3].error == pytest.approx(0.21, abs=0.01)


def test_adding_and_subtracting_drifts_and_dropping_does_not(weights):
    """Ten cycles change 11 % of the entries at ‖ΔW‖/‖W‖ = 0.1, in every dtype; dropping the folded weight none."""
    rows = drifts(weights)
    assert [row.subtracted for row in rows if row.ratio == 1e-1] == pytest.approx([0.11] * 3, abs=0.01)
    assert {row.dropped for row in rows} == {0}
    assert len(rows) == 9


def test_outputs_are_off_by_what_the_tolerances_allow(weights):
    """And the merged layer is no worse than the adapter apart."""
    worst = {"float32": 5e-6, "float16": 5e-3, "bfloat16": 4e-2}
    for row in output_errors(weights, ranks=[8]):
        assert 0 < row.apart <= worst[row.dtype]
        assert 0 < row.merged <= 1.5 * row.apart


@pytest.mark.parametrize("ratio", [0.3, 1e-3])
def test_layer_has_an_update_of_the_size_asked_for(weights, ratio):
    """Of the weight as it is stored."""
    layer = adapted(weights["w"], BF16, rank=3, ratio=ratio, seed=0)
    assert layer.weight.dtype == BF16
    assert (layer.delta_weight().norm() / layer.weight.float().norm()).item() == pytest.approx(ratio, rel=1e-3)
    assert torch.linalg.matrix_rank(layer.delta_weight().double(), rtol=1e-5) == 3


def test_changed_entries_are_counted():
    """By hand: in bfloat16 1/3 + 100 − 100 is 0 or 1/2, and 1 + 1 − 1 is 1."""
    layer = adapted(torch.tensor([[1 / 3, 1.0]]), BF16, rank=1, ratio=1.0, seed=0)
    layer.lora_B.data = torch.ones(1, 1)
    layer.lora_A.data = torch.tensor([[50.0, 0.5]])  # with a scaling of 2 that is (100, 1)
    assert changed_by_subtracting(layer) == 0.5
    assert changed_by_dropping(layer) == 0


def test_dropping_check_can_fail(weights):
    """The twin: a layer that writes to its base is seen."""
    layer = adapted(weights["w"], BF16, rank=2, ratio=0.1, seed=0)
    layer.merge = lambda: layer.weight.data.add_(layer.delta_weight().to(BF16))
    layer.unmerge = lambda: layer.weight.data.sub_(layer.delta_weight().to(BF16))
    assert changed_by_dropping(layer) > 0.01


def test_weights_are_spread_over_the_model_and_none_is_of_the_head():
    """Six of twelve linear layers; a model without any has none."""
    found = weights_of(tiny_distilbert())
    assert len(found) == 6
    assert {name.split(".")[3] for name in found} == {"0", "1"}
    assert not any("classifier" in name for name in found)
    assert weights_of(nn.Sequential(nn.ReLU())) == {}
