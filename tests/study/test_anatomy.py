import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.stats import entropy
from support.families import tiny
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.layers import DoRALinear, LoRALinear
from lora_scratch.study.anatomy import (
    anatomy,
    effective_rank,
    examine,
    intruder_dimensions,
    low_rank_svd,
    shares_by_depth,
    shares_by_projection,
    stable_rank,
    summarize_adapter,
)
from lora_scratch.testing import move_adapter

KINDS = {
    "lora": ("distilbert", {}),
    "rslora": ("distilbert", {"rslora": True}),
    "dora": ("distilbert", {"variant": "dora"}),
    "pissa": ("distilbert", {"init": "pissa"}),
    "olora": ("distilbert", {"init": "olora"}),
    "conv1d": ("gpt2", {"targets": ["c_attn"]}),
    "conv1d dora": ("gpt2", {"targets": ["c_attn"], "variant": "dora"}),
    "embedding": ("distilbert", {"targets": ["word_embeddings"]}),
}


def adapted(kind):
    family, options = KINDS[kind]
    model = inject(tiny(family), LoRAConfig(**{"rank": 3, "alpha": 5, "dropout": 0.0} | options), seed=0)
    move_adapter(model, seed=0)
    return model


def dense(layer):
    """ΔW as the layer itself gives it, (out, in); of DoRA the part that is no rescaling of W."""
    delta = layer.delta_weight().double()
    transposed = isinstance(layer.base, nn.Embedding) or type(layer.base).__name__ == "Conv1D"
    delta, weight = (delta.T, layer.weight.double().T) if transposed else (delta, layer.weight.double())
    if isinstance(layer, DoRALinear):
        delta = delta - (layer.gain().double() - 1)[:, None] * weight
    return delta.detach(), weight.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_anatomy_agrees_with_the_dense_update(kind):
    """Norms, singular values, alignment: from the factors as from ΔW written out, for every kind of adapter."""
    model = adapted(kind)
    layers, rows = adapter_layers(model), anatomy(model)
    assert [row.name for row in rows] == list(layers)
    for row in rows:
        delta, weight = dense(layers[row.name])
        values = torch.linalg.svdvals(delta)
        assert row.rank == (6 if kind in ("pissa", "olora") else 3)
        assert row.singular_values == pytest.approx(values[: row.rank].tolist(), rel=1e-4, abs=1e-5)
        assert row.relative_norm == pytest.approx((delta.norm() / weight.norm()).item(), rel=1e-4)
        assert row.stable_rank == pytest.approx((delta.norm() / torch.linalg.matrix_norm(delta, 2)).item() ** 2, rel=1e-4)
        u, _, vh = torch.linalg.svd(weight)
        inside = u[:, : row.rank].T @ delta @ vh[: row.rank].T
        assert row.alignment == pytest.approx((inside.norm() / delta.norm()).item() ** 2, rel=1e-3)
        assert row.energy[-1] == pytest.approx(1)


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 5), out=st.integers(5, 9), width=st.integers(5, 9))
@settings(max_examples=40, deadline=None)
def test_low_rank_svd_is_that_of_the_product(seed, rank, out, width):
    """U S Vᵀ = B A to 1e-12, U and V orthonormal, S the singular values."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((rank, width), (out, rank)))
    found = low_rank_svd(a, b)
    torch.testing.assert_close(found.U * found.S @ found.V.T, b @ a, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.S, torch.linalg.svdvals(b @ a)[:rank], rtol=1e-12, atol=1e-12)
    for basis in (found.U, found.V):
        torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_effective_rank_is_the_exponential_of_scipys_entropy(values):
    """scipy.stats.entropy normalizes and sums."""
    assert effective_rank(torch.tensor(values, dtype=torch.float64)) == pytest.approx(math.exp(entropy(values)))


def test_ranks_of_spectra_are_those_worked_by_hand():
    """(3, 4, 0): 25/16. Equal values: their number. (1, 1): e^log 2 = 2. Nothing: 0."""
    assert stable_rank(torch.tensor([4.0, 3.0, 0.0])) == pytest.approx(25 / 16)
    assert stable_rank(torch.full((5,), 2.0)) == pytest.approx(5)
    assert effective_rank(torch.tensor([1.0, 1.0, 0.0])) == pytest.approx(2)
    assert stable_rank(torch.zeros(3)) == effective_rank(torch.zeros(3)) == 0


def by_hand(row, column, size):
    """W = diag(8, 4, 2, 1), and ΔW = size at (row, column)."""
    linear = nn.Linear(4, 4, bias=False)
    linear.weight.data = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]))
    layer = LoRALinear(linear, rank=1, alpha=2)
    layer.lora_A.data = torch.eye(4)[column : column + 1]
    layer.lora_B.data = size / 2 * torch.eye(4)[:, row : row + 1]
    return examine("layer", layer)


def test_examine_gives_the_case_worked_by_hand():
    """‖W‖ = √85. 3 at (0, 0) lies along the first direction, all of it; 3 at (0, 1) leaves it on the right."""
    along = by_hand(0, 0, 3.0)
    assert along.singular_values == pytest.approx([3])
    assert along.relative_norm == pytest.approx(3 / math.sqrt(85))
    assert along.alignment == pytest.approx(1)
    assert by_hand(0, 1, 3.0).alignment == pytest.approx(0, abs=1e-12)
    assert along.intruders == 0


def test_an_update_of_zero_has_no_direction():
    """Straight after injection: zeros, and nothing divided by zero."""
    row = anatomy(inject(tiny_distilbert(), LoRAConfig(rank=2), seed=0))[0]
    assert (row.update_norm, row.stable_rank, row.effective_rank, row.alignment, row.intruders) == (0, 0, 0, 0, 0)


def test_intruder_dimensions_are_directions_far_from_all_of_the_base():
    """By hand: a strong new direction at equal angles to four axes has cosine 1/2 with each; SciPy's angles agree."""
    base = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    left = torch.linalg.svd(base).U
    new = torch.full((4, 1), 0.5, dtype=torch.float64)
    adapted = base + 1000 * new @ new.T
    leading = torch.linalg.svd(adapted).U[:, :1]
    angles = [subspace_angles(left[:, i : i + 1].numpy(), leading.numpy())[0] for i in range(4)]
    assert max(map(math.cos, angles)) == pytest.approx(0.5, abs=1e-2)
    assert intruder_dimensions(left, base) == 0
    assert intruder_dimensions(left, adapted) >= 1


def test_shares_add_up_to_one_by_projection_and_by_depth():
    """Each is the sum of ‖ΔW‖² of its layers over that of all."""
    rows = anatomy(adapted("lora"))
    total = sum(row.update_norm**2 for row in rows)
    by_projection, by_depth = shares_by_projection(rows), shares_by_depth(rows)
    assert (list(by_projection), list(by_depth)) == (["q_lin", "k_lin", "v_lin"], ["0", "1"])
    expected = sum(row.update_norm**2 for row in rows if row.name.endswith("k_lin")) / total
    assert by_projection["k_lin"] == pytest.approx(expected)
    assert sum(by_depth.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_summary_is_the_quick_part_of_the_anatomy(kind):
    """The same figures, without those that take a decomposition of W."""
    model = adapted(kind)
    for quick, whole in zip(summarize_adapter(model), anatomy(model), strict=True):
        assert vars(quick) == {name: value for name, value in vars(whole).items() if name not in ("alignment", "intruders")}


def test_anatomy_leaves_the_model_as_it_is():
    """Looking changes nothing, and a merged model gives the same."""
    model = adapted("dora")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = anatomy(model)
    for layer in adapter_layers(model).values():
        layer.merge()
    assert anatomy(model) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
