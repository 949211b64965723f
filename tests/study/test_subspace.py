"""lora_scratch/study/subspace.py: φ of equal, nested, orthogonal and random spaces, and amplification by construction."""

import math

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn

from lora_scratch.layers import LoRAConv1D, LoRALinear
from lora_scratch.study.subspace import (
    amplification,
    directions_of_A,
    directions_of_update,
    expected_similarity,
    projected_norm,
    random_directions,
    similarity,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def axes(*indices, n=6):
    return torch.eye(n, dtype=torch.float64)[:, list(indices)]


def test_similarity_of_a_space_with_itself_is_one_wherever_one_lies_in_the_other():
    """Nested spaces: all of the smaller is in the larger, so φ is 1 for every i and j."""
    directions = random_directions(20, 5, generator())
    torch.testing.assert_close(similarity(directions, directions), torch.ones(5, 5, dtype=torch.float64))


def test_similarity_does_not_see_the_basis_of_a_whole_space():
    """Turned within itself, a space is the same space; its single directions are not."""
    directions = random_directions(20, 5, generator())
    turned = directions @ random_directions(5, 5, generator(1))
    found = similarity(directions, turned)
    assert found[4, 4].item() == pytest.approx(1, abs=1e-12)
    assert found[0, 0] < 0.9


def test_similarity_of_orthogonal_spaces_is_zero():
    """No direction in common."""
    assert similarity(axes(0, 1), axes(2, 3, 4)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_similarity_of_a_case_by_hand():
    """First: e0, e1. Second: e1, (e0 + e2)/√2. φ(1,1) = 0, φ(2,1) = 1, φ(1,2) = 1/2, φ(2,2) = (1 + 1/2) / 2."""
    slanted = (axes(0) + axes(2)) / math.sqrt(2)
    found = similarity(axes(0, 1), torch.cat([axes(1), slanted], dim=1))
    torch.testing.assert_close(found, torch.tensor([[0, 0.5], [1, 0.75]], dtype=torch.float64))


def test_similarity_equals_the_formula_at_every_i_and_j():
    """Each cell by itself, with unequal ranks."""
    first, second = random_directions(9, 3, generator(0)), random_directions(9, 5, generator(1))
    found = similarity(first, second)
    for i in range(1, 4):
        for j in range(1, 6):
            expected = (first[:, :i].T @ second[:, :j]).norm().item() ** 2 / min(i, j)
            assert found[i - 1, j - 1].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("i", "j"), [(1, 1), (2, 7), (5, 5)])
def test_random_spaces_have_the_expected_similarity_in_the_mean(i, j):
    """max(i, j) / n; the mean of 2,000 draws is within five standard errors."""
    numbers = generator()
    drawn = [
        similarity(random_directions(24, i, numbers), random_directions(24, j, numbers))[-1, -1].item() for _ in range(2000)
    ]
    found, error = torch.tensor(drawn).mean().item(), torch.tensor(drawn).std().item() / math.sqrt(2000)
    assert abs(found - expected_similarity(i, j, 24)) < 5 * error


def test_random_directions_are_orthonormal():
    """Uᵀ U = 1."""
    directions = random_directions(12, 4, generator())
    torch.testing.assert_close(directions.T @ directions, torch.eye(4, dtype=torch.float64))


def trained(layer):
    for tensor in layer.adapter_tensors().values():
        tensor.data.normal_(generator=generator())
    return layer


@pytest.mark.parametrize("make", [lambda: LoRALinear(nn.Linear(8, 5), 3, 6), lambda: LoRAConv1D(tiny_conv1d(5, 8), 3, 6)])
def test_directions_are_the_right_singular_vectors_of_A_and_of_the_update(make):
    """Up to sign, those of the dense matrices."""
    layer = trained(make())
    lora_A, lora_B = layer.lora_A.detach().double(), layer.lora_B.detach().double()
    for found, dense in ((directions_of_A(layer), lora_A), (directions_of_update(layer), lora_B @ lora_A)):
        expected = torch.linalg.svd(dense).Vh[:3].T
        torch.testing.assert_close((found * expected).sum(0).abs(), torch.ones(3, dtype=torch.float64))


def test_amplification_of_a_constructed_weight_and_update():
    """W = diag(5, 4, 3, 2, 1), ΔW = 6 e4 e4ᵀ: W has 1 there, so the factor is 6; W's own leading direction has 5."""
    layer = LoRALinear(nn.Linear(5, 5), rank=1, alpha=2)
    layer.weight.data.copy_(torch.diag(torch.tensor([5.0, 4, 3, 2, 1])))
    layer.lora_A.data.copy_(torch.tensor([[0.0, 0, 0, 0, 1]]))
    layer.lora_B.data.copy_(torch.tensor([[0.0], [0], [0], [0], [3]]))
    found = amplification(layer, generator())
    assert found.rank == 1
    assert found.in_update == pytest.approx(1)
    assert found.in_weight == pytest.approx(5)
    assert found.weight_norm == pytest.approx(math.sqrt(55))
    assert found.update_norm == pytest.approx(6)
    assert found.factor == pytest.approx(6)
    assert 0 < found.in_random < 5


@pytest.mark.parametrize("make", [lambda: LoRALinear(nn.Linear(8, 5), 3, 6), lambda: LoRAConv1D(tiny_conv1d(5, 8), 3, 6)])
def test_amplification_equals_the_dense_computation(make):
    """‖ΔW‖ / ‖Uᵀ W V‖ with U and V from a dense SVD of ΔW; W's own directions hold its leading singular values."""
    layer = trained(make())
    delta, weight = layer.delta_weight().detach().double(), layer.weight.detach().double()
    left, _, right = torch.linalg.svd(delta)
    inside = projected_norm(weight, left[:, :3], right[:3].T)
    found = amplification(layer, generator())
    assert found.in_update == pytest.approx(inside, rel=1e-5)
    assert found.factor == pytest.approx(delta.norm().item() / inside, rel=1e-5)
    assert found.in_weight == pytest.approx(torch.linalg.svdvals(weight)[:3].norm().item())


def test_amplification_is_zero_without_an_update_and_in_a_space_where_the_weight_is_zero():
    """B = 0 has ΔW = 0; a weight of zeros has nothing to amplify."""
    assert amplification(LoRALinear(nn.Linear(8, 5), 3, 6), generator()).factor == 0
    layer = trained(LoRALinear(nn.Linear(8, 5), 3, 6))
    layer.weight.data.zero_()
    assert amplification(layer, generator()).factor == 0
