"""lora_scratch/layers/dora.py: the formula, PEFT's law of dropout, the exact start, and the kept norm."""

import copy

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_scratch.layers import DoRALinear
from lora_scratch.testing import check_all, move_adapter

# the rank of DoRA's update has no bound, it is not linear in the scaling, and the gradient takes the norm for a constant
NOT_LORA = {"skip": ["low_rank", "linear_in_scaling"], "constants": ["row_norm"]}
BASES = {
    "linear": lambda: nn.Linear(6, 4),
    "no_bias": lambda: nn.Linear(6, 4, bias=False),
    "conv1d": lambda: tiny_conv1d(4, 6),
}


def make(base="linear", *, off_init=True, **options):
    """A layer away from its start, alpha different from rank, in different from out."""
    layer = DoRALinear(BASES[base](), **{"rank": 2, "alpha": 3} | options)
    if off_init:
        move_adapter(layer)
    return layer.eval()


def dense_rows(layer):
    """V = W + scaling · B A in float64, the dense way."""
    weight = layer.weight.T if isinstance(layer.base, Conv1D) else layer.weight
    return weight.double() + layer.scaling * (layer.lora_B.double() @ layer.lora_A.double())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dora_obeys_the_laws_of_an_adapter_layer(base, dropout):
    """Zero start, dense formula, gradients, frozen base, merge and unmerge, dtypes, modes: all of them."""
    check_all(lambda: make(base, off_init=False, dropout=dropout), torch.randn(5, 6), **NOT_LORA)


@pytest.mark.parametrize("base", BASES)
def test_dora_is_the_papers_formula(base):
    """y = (m / ‖V‖) · (x Wᵀ + scaling · x Aᵀ Bᵀ) + b, in float64 to 1e-12, with the bias outside the magnitude."""
    layer = make(base).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    direction = dense_rows(layer)
    bias = 0 if layer.bias is None else layer.bias
    expected = x @ (layer.magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)).T + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_dora_norm_in_closed_form_is_the_norm_of_the_dense_rows():
    """‖W‖² + 2s⟨W, BA⟩ + s²‖BA‖² = ‖W + s·BA‖² for every row."""
    layer = make().double()
    torch.testing.assert_close(layer.row_norm(), dense_rows(layer).norm(dim=1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_dora_starts_at_a_gain_of_exactly_one(dtype, training):
    """Both norms come out of one expression, so g is 1 and the layer the base, bit for bit."""
    layer = DoRALinear(nn.Linear(33, 17, dtype=dtype), 4, dropout=0.3).train(training)
    x = torch.randn(7, 33, dtype=dtype)
    assert torch.equal(layer.gain(), torch.ones_like(layer.gain()))
    assert torch.equal(layer(x), layer.base(x))
    assert torch.equal(layer.effective_weight().to(dtype), layer.weight)


def test_dora_under_autocast_starts_as_the_base():
    """Also where the base computes in bfloat16, and the output has its dtype."""
    layer = make(off_init=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(torch.ones(2, 6)), layer.base(torch.ones(2, 6)))


def test_dora_keeps_a_row_of_zeros_at_zero():
    """A row without a direction has gain 0: no NaN comes out of 0/0."""
    linear = nn.Linear(6, 4)
    linear.weight.data[1] = 0
    layer = DoRALinear(linear, 2)
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), linear(x))
    layer(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.adapter_tensors().values())


def rounding_bound(layer):
    """How large ‖V‖ may come out where it is zero, for every row.

    ‖V‖² = ‖W‖² + 2s⟨W, BA⟩ + s²‖BA‖². A sum of n products is off by at most n·eps/2 of the sum of their absolute values.
    With β = Σₖ |bₖ|·‖aₖ‖ the absolute values add up to at most ‖W‖², ‖W‖·β and β². The longest chain of sums is that of
    ⟨B(AAᵀ), B⟩: in + rank + rank numbers, and four more roundings for the scaling and the two additions. Hence
    |error of ‖V‖²| ≤ (in + 2·rank + 4)·eps/2·(‖W‖ + |s|·β)², and ‖V‖ is off by at most its root: about √eps of the norms
    that cancel, on any CPU and in any order of summation.
    """
    rank, inputs = layer.lora_A.shape
    beta = layer.lora_B.abs() @ layer.lora_A.norm(dim=1)
    cancelling = layer.weight.norm(dim=1) + abs(layer.scaling) * beta
    return ((inputs + 2 * rank + 4) * torch.finfo(torch.float32).eps / 2) ** 0.5 * cancelling


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
def test_dora_norm_of_rows_that_cancel_is_no_nan(size, seed):
    """Where V = 0 rounding may take the closed form below zero; what is left is within the bound of the formula."""
    torch.manual_seed(seed)
    layer = DoRALinear(nn.Linear(64, 48), 2, 3)
    with torch.no_grad():
        layer.lora_B.normal_(std=size)
        layer.weight.copy_(-layer.scaling * layer.lora_B @ layer.lora_A)
        assert layer.row_norm().isfinite().all()
        assert (layer.row_norm() <= rounding_bound(layer)).all()


def test_dora_gradient_takes_the_norm_for_a_constant():
    """Section 4.3: the gradient is that of the formula with ‖V‖ held at its value."""
    layer = make().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    layer(x).square().sum().backward()
    constant = dense_rows(layer).norm(dim=1).detach()
    a, b, m = (p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B, layer.magnitude))
    y = (m / constant) * (x @ layer.weight.T + layer.scaling * x @ a.T @ b.T) + layer.bias
    y.square().sum().backward()
    for found, expected in ((layer.lora_A, a), (layer.lora_B, b), (layer.magnitude, m)):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)


def test_dora_drops_the_bases_share_of_the_change_too():
    """PEFT's law: y = base(x) + (g − 1) · d(x) Wᵀ + g · scaling · d(x) Aᵀ Bᵀ, the base itself not dropped."""
    layer = make(dropout=0.5).train()
    x = torch.randn(4, 6)
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    dropped = layer.dropout(x)
    gain = layer.gain()
    update = layer.scaling * dropped @ layer.lora_A.T @ layer.lora_B.T
    torch.testing.assert_close(found, layer.base(x) + (gain - 1) * (dropped @ layer.weight.T) + gain * update)


class TestKeptNorm:
    """In evaluation the norm is worked out once, and again after everything that could have changed it."""

    def fresh(self, layer):
        """The norm with nothing kept."""
        return copy.deepcopy(layer).train().row_norm()

    def test_norm_is_kept_in_evaluation_alone(self):
        """The very same tensor in eval(), a new one in train()."""
        layer = make()
        assert layer.row_norm() is layer.row_norm()
        layer.train()
        assert layer.row_norm() is not layer.row_norm()

    @pytest.mark.parametrize("name", ["lora_A", "lora_B"])
    def test_norm_is_anew_after_a_write(self, name):
        """A write under no_grad, which is how load_state_dict and our files write."""
        layer = make()
        before = layer.row_norm()
        with torch.no_grad():
            getattr(layer, name).add_(0.5)
        assert not torch.equal(layer.row_norm(), before)
        assert torch.equal(layer.row_norm(), self.fresh(layer))

    @pytest.mark.parametrize("fused", [False, True])
    def test_norm_is_anew_after_an_optimizer_step(self, fused):
        """Also a fused one, which writes without counting the write in `_version`."""
        layer = make()
        layer.row_norm()
        optimizer = torch.optim.AdamW(layer.adapter_tensors().values(), lr=0.1, fused=fused)
        layer(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        assert torch.equal(layer.row_norm(), self.fresh(layer))

    def test_norm_is_anew_after_loading(self):
        """load_state_dict in evaluation mode."""
        layer, other = make(), make(off_init=False)
        layer.row_norm()
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer.row_norm(), other.row_norm())

    def test_norm_is_anew_with_another_scaling(self):
        """The dial of `scaled` turns the norm too."""
        layer = make()
        before = layer.row_norm()
        layer.scaling *= 2
        assert not torch.equal(layer.row_norm(), before)
        assert torch.equal(layer.row_norm(), self.fresh(layer))

    def test_norm_is_anew_with_other_tensors_or_another_dtype(self):
        """`p.data = ...` and `.double()` put new memory in place."""
        layer = make()
        layer.row_norm()
        layer.lora_B.data.mul_(3)
        assert torch.equal(layer.row_norm(), self.fresh(layer))
        layer.lora_B.data = torch.randn(4, 2)
        assert torch.equal(layer.row_norm(), self.fresh(layer))
        assert layer.double().row_norm().dtype is torch.float64
        assert torch.equal(layer.row_norm(), self.fresh(layer))

    def test_norm_is_anew_with_another_base_weight(self):
        """‖W‖² is kept too; a base that was loaded again after wrapping is seen."""
        layer = make()
        layer.row_norm()
        with torch.no_grad():
            layer.weight.mul_(2)
        torch.testing.assert_close(layer.row_norm(), dense_rows(layer).norm(dim=1).float())

    def test_norm_of_inference_mode_does_not_reach_a_gradient(self):
        """An inference tensor in a later backward would be an error, so what is kept is none."""
        layer = make()
        with torch.inference_mode():
            layer(torch.ones(1, 6))
            assert layer.row_norm() is layer.row_norm()
            assert not layer.row_norm().is_inference()
        layer(torch.ones(1, 6)).sum().backward()
        assert layer.magnitude.grad is not None


def test_norm_of_an_inference_weight_is_not_kept():
    """An inference tensor has no count of writes to go by, so the norm of a base made in inference mode is always anew."""
    with torch.inference_mode():
        layer = make()
        layer.row_norm()
        layer.weight.mul_(2)
        assert torch.allclose(layer.row_norm().double(), dense_rows(layer).norm(dim=1))


def test_dora_delta_weight_is_what_it_adds_to_the_base():
    """effective_weight = W + delta_weight, in the shape in which the base stores it."""
    for base in BASES:
        layer = make(base)
        torch.testing.assert_close(layer.effective_weight(), layer.weight + layer.delta_weight())
        assert layer.delta_weight().shape == layer.weight.shape


def test_dora_names_its_tensors_as_peft_does():
    """The magnitude's suffix has no `.weight`."""
    assert list(make().adapter_tensors()) == ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"]


@pytest.mark.parametrize(
    ("options", "message"), [({"rank": 5}, "1 to 4"), ({"alpha": 0}, "alpha"), ({"dropout": 1}, "dropout")]
)
def test_dora_refuses_arguments_out_of_bounds(options, message):
    """The same bounds as LoRALinear's."""
    with pytest.raises(ValueError, match=message):
        make(**options)
