"""lora_scratch/layers/lora.py: the docstring's example, the laws, and every promise of the file, over shapes and dtypes."""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from lora_scratch.layers import LoRALinear, lora_scaling
from lora_scratch.testing import TOLERANCE, check_adapter_tensors, check_all, check_zero_start, move_adapter, relative_error

DTYPES = list(TOLERANCE)


def make(inputs=6, outputs=4, *, dtype=torch.float32, bias=True, off_init=True, **options):
    """A layer away from its start, alpha different from rank, in different from out; its tensors are its own seeded draw."""
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(inputs, outputs, bias=bias)
    for parameter in linear.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    layer = LoRALinear(linear.to(dtype), **{"rank": 2, "alpha": 3, "generator": generator} | options)
    if off_init:
        move_adapter(layer)
    return layer.eval()


def formula(layer, x):
    """The definition in float64, written out here and nowhere else: x Wᵀ + b + scaling · x Aᵀ Bᵀ."""
    x, weight, a, b = (tensor.detach().double() for tensor in (x, layer.weight, layer.lora_A, layer.lora_B))
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    return torch.einsum("...i,oi->...o", x, weight + layer.scaling * torch.einsum("or,ri->oi", b, a)) + bias


def error_over_size(found, exact):
    """`relative_error`, with the rms taken as 1 where it is less: of one or two numbers it may vanish by cancellation."""
    size = exact.square().mean().sqrt() if exact.numel() else torch.ones(())
    return relative_error(found, exact) * min(size.item(), 1.0) if size else relative_error(found, exact)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
batches = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def layers(draw, dtypes=DTYPES):
    """A layer of any shape, rank, alpha, scaling, bias and dtype, and an input for it of any batch shape."""
    inputs, outputs = draw(shapes)
    rank, dtype = draw(st.integers(1, min(inputs, outputs))), draw(st.sampled_from(dtypes))
    alpha = draw(st.floats(0.1, 2)) * rank
    layer = make(inputs, outputs, dtype=dtype, bias=draw(st.booleans()), rank=rank, alpha=alpha, rslora=draw(st.booleans()))
    x = torch.randn(*draw(batches), inputs, generator=torch.Generator().manual_seed(draw(st.integers(0, 9)))).to(dtype)
    return layer, x


class TestExample:
    """The worked example in the file's docstring."""

    def test_update_is_the_one_worked_out_in_the_docstring(self):
        """A = [1 2], B = [1 0 -1]ᵀ, scaling 2, x = [3 1]: the layer adds [10 0 -10] to x Wᵀ + b."""
        layer = LoRALinear(nn.Linear(2, 3), rank=1, alpha=2)
        with torch.no_grad():
            layer.lora_A.copy_(torch.tensor([[1.0, 2.0]]))
            layer.lora_B.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
            layer.base.weight.zero_()
            layer.base.bias.copy_(torch.tensor([0.5, 0.25, 0.125]))
        assert layer.scaling == 2
        assert layer(torch.tensor([3.0, 1.0])).tolist() == [10.5, 0.25, -9.875]
        assert layer.delta_weight().tolist() == [[2, 4], [0, 0], [-2, -4]]

    def test_parameters_are_two_percent_of_a_distilbert_projection(self):
        """rank · (in + out) numbers for 768 x 768 and rank 8, as the docstring says."""
        layer = LoRALinear(nn.Linear(768, 768), rank=8)
        count = sum(tensor.numel() for tensor in layer.adapter_tensors().values())
        assert count == 8 * (768 + 768)
        assert round(100 * count / 768**2) == 2


class TestLaws:
    """All laws of lora_scratch.testing, for the plain layer and its options."""

    @pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
    @pytest.mark.parametrize(
        "options", [{}, {"rslora": True}, {"dropout": 0.4}, {"rank": 1}, {"rank": 4, "alpha": 0.5}], ids=str
    )
    def test_all_laws_hold(self, bias, options):
        """Zero start, formula, gradients, merge, rank, scaling, dtypes, modes, switches."""
        check_all(lambda: make(bias=bias, off_init=False, **options), torch.randn(3, 2, 6))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_layer_made_on_a_base_of_any_dtype_starts_as_the_base_with_float32_tensors(self, dtype):
        """B = 0 is zero in every dtype, and A and B are float32 whatever the base."""
        check_zero_start(lambda: make(dtype=dtype, off_init=False, dropout=0.2), torch.randn(3, 6))
        check_adapter_tensors(lambda: make(dtype=dtype, off_init=False), torch.randn(3, 6))


class TestForward:
    """The formula, over everything that varies."""

    @given(layers())
    def test_forward_is_the_formula(self, case):
        """Within the tolerance of its dtype of the definition in float64; shape and dtype as the base's."""
        layer, x = case
        if x.dtype is torch.float64:
            layer.double()
        y = layer(x)
        assert y.shape == (*x.shape[:-1], layer.weight.shape[0])
        assert y.dtype == x.dtype
        assert error_over_size(y, formula(layer, x)) <= TOLERANCE[x.dtype]

    @given(layers(dtypes=[torch.float32]))
    def test_merged_forward_is_the_formula(self, case):
        """The folded weight gives the same function."""
        layer, x = case
        exact = formula(layer, x)
        layer.merge()
        assert error_over_size(layer(x), exact) <= TOLERANCE[torch.float32]

    @given(layers())
    def test_disabled_is_the_base_when_merged_or_not(self, case):
        """Bit for bit, in every dtype, and the way back is whole."""
        layer, x = case
        for _ in ("unmerged", "merged"):
            adapted = layer(x)
            layer.enabled = False
            assert torch.equal(layer(x), layer.base(x))
            layer.enabled = True
            assert torch.equal(layer(x), adapted)
            if not layer.merged:
                layer.merge()

    def test_wide_layers_stay_within_the_house_tolerance(self):
        """768 x 3072 with rank 64: where rounding errors have room to add up."""
        layer = make(768, 3072, rank=64, alpha=16)
        x = torch.randn(4, 768)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            layer.base.to(dtype)
            assert relative_error(layer(x.to(dtype)), formula(layer, x.to(dtype))) <= TOLERANCE[dtype]

    @pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 0, 6), (1, 6), (2, 3, 4, 6)], ids=str)
    def test_forward_takes_any_batch_shape_and_its_gradient_is_finite(self, shape):
        """A vector, an empty batch, any number of axes."""
        layer, x = make(), torch.randn(shape)
        y = layer(x)
        assert y.shape == (*shape[:-1], 4)
        y.sum().backward()
        assert layer.lora_A.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast_computes_in_its_dtype_and_keeps_float32_gradients(self, dtype):
        """Under autocast the output is narrow, the trained tensors and their gradients are not."""
        layer, x = make(), torch.randn(5, 6)
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x)
        assert y.dtype == dtype
        assert relative_error(y, formula(layer, x)) <= TOLERANCE[dtype]
        y.float().sum().backward()
        assert layer.lora_A.grad.dtype == layer.lora_B.grad.dtype == torch.float32


class TestContract:
    """The caller's tensors, and who may change them."""

    def test_layer_keeps_the_very_same_tensors_frozen(self):
        """Contract 1: `weight` and `bias` are the caller's own objects."""
        linear = nn.Linear(6, 4)
        weight, bias = linear.weight, linear.bias
        layer = LoRALinear(linear, rank=2)
        assert layer.weight is weight
        assert layer.base.weight is weight
        assert layer.bias is bias
        assert not weight.requires_grad
        assert not bias.requires_grad

    def test_training_moves_the_adapter_alone(self):
        """Ten AdamW steps on all parameters that ask for them leave every base bit."""
        layer, x = make(), torch.randn(8, 6)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name]) is name.startswith("base."), name

    def test_state_dict_is_unmerged_and_loads_through_safetensors(self):
        """What a file would hold is the same merged or not, and a fresh layer computes the same bits from it."""
        layer, x = make(), torch.randn(5, 6)
        expected, content = layer(x), save(layer.state_dict())
        layer.merge()
        assert save(layer.state_dict()) == content
        assert sorted(layer.state_dict()) == ["base.bias", "base.weight", "lora_A", "lora_B"]
        other = make(off_init=False)
        other.load_state_dict(load(content), strict=True)
        assert torch.equal(other(x), expected)

    def test_deepcopy_is_independent(self):
        """A copy computes the same, and training or merging it leaves the original."""
        layer, x = make(), torch.randn(5, 6)
        layer.merge()
        expected, copied = layer(x), copy.deepcopy(layer)
        assert copied.merged
        assert torch.equal(copied(x), expected)
        copied.unmerge()
        with torch.no_grad():
            copied.lora_A.add_(1)
            copied.base.weight.add_(1)
        assert layer.merged
        assert torch.equal(layer(x), expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_to_moves_base_adapter_and_merged_weight_together(self, dtype):
        """`.to(dtype)` on the layer is nn.Module's: everything follows, also the folded weight."""
        layer = make()
        layer.merge()
        layer.to(dtype)
        assert layer.lora_A.dtype == layer.weight.dtype == layer.merged_weight.dtype == dtype
        assert layer(torch.randn(3, 6, dtype=dtype)).dtype == dtype

    def test_to_device_takes_every_tensor_along(self):
        """The meta device stands in for any other."""
        layer = make()
        layer.merge()
        layer.to("meta")
        assert {t.device.type for t in (*layer.state_dict().values(), layer.merged_weight)} == {"meta"}

    def test_adapter_is_born_on_the_device_of_the_base(self):
        """Wrapping a layer that is on another device needs no second call."""
        layer = LoRALinear(nn.Linear(6, 4, device="meta"), rank=2)
        assert layer.lora_A.device.type == layer.lora_B.device.type == "meta"


class TestMerge:
    """Folded once, never subtracted."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_hundred_cycles_leave_every_bit(self, dtype):
        """Contract 3, off-init, and the tensor objects are still the caller's."""
        layer = make(64, 48, dtype=dtype)
        weight, bits = layer.weight, layer.weight.detach().clone()
        for _ in range(100):
            layer.merge()
            layer.unmerge()
        assert layer.weight is weight
        assert torch.equal(weight, bits)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_merged_weight_is_the_float32_sum_rounded_once(self, dtype):
        """W + ΔW in float32 or wider, then one rounding to the base's dtype, also under autocast."""
        layer = make(dtype=dtype)
        wide = torch.promote_types(dtype, torch.float32)
        with torch.no_grad():
            exact = layer.weight.to(wide) + layer.scaling * (layer.lora_B @ layer.lora_A)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer.merge()
        assert layer.merged_weight.dtype == dtype
        assert torch.equal(layer.merged_weight, exact.to(dtype))

    def test_merge_twice_is_an_error(self):
        """The second one would add the update again elsewhere; here it says so and changes nothing."""
        layer = make()
        layer.merge()
        folded = layer.merged_weight
        with pytest.raises(RuntimeError, match=r"already merged; call unmerge\(\) first"):
            layer.merge()
        assert layer.merged_weight is folded

    def test_unmerge_of_what_is_not_merged_is_an_error(self):
        """Nothing to take back."""
        with pytest.raises(RuntimeError, match=r"^unmerge: not merged; call merge\(\) first$"):
            make().unmerge()

    def test_merge_needs_no_gradient_and_leaves_none(self):
        """The folded weight is data, no graph hangs on it."""
        layer = make()
        layer.merge()
        assert not layer.merged_weight.requires_grad
        assert layer.merged_weight.grad_fn is None

    def test_merge_refuses_what_overflows_the_base_dtype(self):
        """65504 is float16's largest number: an update beyond it is finite in float32 and not in the base."""
        layer = make(dtype=torch.float16)
        with torch.no_grad():
            layer.lora_A.fill_(300)
            layer.lora_B.fill_(300)
        with pytest.raises(RuntimeError, match=r"not finite in torch\.float16; look for NaN or inf in A and B"):
            layer.merge()
        assert not layer.merged


class TestDropout:
    """Only on the update path, only in training."""

    def test_dropout_hits_the_update_and_never_the_base_path(self):
        """With B = 0 a training forward is the base's whatever is dropped; with W = 0 it varies."""
        layer, x = make(dropout=0.5, off_init=False).train(), torch.randn(50, 6)
        assert torch.equal(layer(x), layer.base(x))
        move_adapter(layer)
        assert not torch.equal(layer(x), layer(x))
        assert torch.equal(layer.eval()(x), layer(x))

    def test_dropout_is_that_of_torch_on_the_input_of_the_update(self):
        """The same mask, scaled by 1 / (1 - p), as F.dropout draws from the same state."""
        layer, x = make(dropout=0.25).train(), torch.randn(50, 6)
        torch.manual_seed(7)
        y = layer(x)
        torch.manual_seed(7)
        dropped = nn.functional.dropout(x, 0.25)
        update = layer.scaling * (dropped @ layer.lora_A.T @ layer.lora_B.T)
        assert relative_error(y, layer.base(x) + update) < 1e-5

    def test_no_dropout_draws_no_random_number(self):
        """p = 0 leaves the random state, so a run without dropout is the same with and without the module."""
        layer, state = make().train(), torch.get_rng_state()
        layer(torch.randn(0, 6))
        torch.set_rng_state(state)
        layer(torch.ones(5, 6))
        assert torch.equal(torch.get_rng_state(), state)


class TestInitialization:
    """Where A comes from."""

    def test_a_is_kaiming_uniform_within_one_over_root_in(self):
        """±1/√in, filled to the edge, mean 0, variance 1/(3·in): nn.Linear's own default."""
        layer = LoRALinear(nn.Linear(400, 300), rank=100)
        bound = 1 / math.sqrt(400)
        a = layer.lora_A.detach()
        assert a.shape == (100, 400)
        assert 0.999 * bound < a.abs().max() <= bound
        assert abs(a.mean()) < 0.01 * bound
        assert a.var().item() == pytest.approx(bound**2 / 3, rel=0.02)

    def test_a_is_what_torch_draws_for_a_linear_layer(self):
        """From the same state: nn.init.kaiming_uniform_(A, a=√5)."""
        layer = LoRALinear(nn.Linear(6, 4), rank=2, generator=torch.Generator().manual_seed(5))
        expected = nn.init.kaiming_uniform_(torch.empty(2, 6), a=math.sqrt(5), generator=torch.Generator().manual_seed(5))
        assert torch.equal(layer.lora_A, expected)

    def test_generator_decides_and_the_global_state_is_not_drawn_from(self):
        """Equal seeds give equal bits, others do not, and nothing else in the program is shifted."""
        state = torch.get_rng_state()
        linear = nn.Linear(6, 4, device="meta").to_empty(device="cpu")
        torch.set_rng_state(state)
        first, second, third = (LoRALinear(linear, rank=2, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(first.lora_A, second.lora_A)
        assert not torch.equal(first.lora_A, third.lora_A)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_is_drawn_in_float32_whatever_the_base(self):
        """The same A on a base in bfloat16 as on one in float32."""
        assert torch.equal(make(off_init=False).lora_A, make(off_init=False, dtype=torch.bfloat16).lora_A)


class TestArguments:
    """Bounds, each with its own words."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rank": 0}, "rank is 0; expected 1 to 4"),
            ({"rank": -1}, "rank is -1; expected 1 to 4"),
            ({"rank": 5}, "rank is 5; expected 1 to 4, the smaller side"),
            ({"alpha": 0}, "alpha is 0; expected a finite number above 0"),
            ({"alpha": -1.0}, r"alpha is -1\.0; expected a finite number above 0"),
            ({"alpha": math.inf}, "alpha is inf; expected a finite number"),
            ({"alpha": math.nan}, "alpha is nan; expected a finite number"),
            ({"dropout": 1.0}, r"dropout is 1\.0; expected at least 0 and below 1"),
            ({"dropout": -0.1}, r"dropout is -0\.1; expected at least 0"),
            ({"dropout": math.nan}, "dropout is nan; expected at least 0"),
        ],
    )
    def test_argument_out_of_bounds_is_an_error_that_names_the_bounds(self, options, message):
        """PAINS 44: rank above the layer and alpha 0 are not taken silently."""
        with pytest.raises(ValueError, match=message):
            LoRALinear(nn.Linear(6, 4), **{"rank": 2, "alpha": 3} | options)

    @pytest.mark.parametrize("rank", [1, 4])
    def test_rank_at_its_bounds_is_taken(self, rank):
        """1 and the smaller side are both ranks, on a layer of either orientation."""
        assert LoRALinear(nn.Linear(6, 4), rank=rank).lora_A.shape == (rank, 6)
        assert LoRALinear(nn.Linear(4, 6), rank=rank).lora_B.shape == (6, rank)

    def test_defaults_are_rank_8_alpha_16_no_dropout(self):
        """The README's words."""
        layer = LoRALinear(nn.Linear(16, 16))
        assert (layer.rank, layer.alpha, layer.scaling, layer.dropout.p) == (8, 16, 2, 0)


@given(st.integers(1, 512), st.floats(1e-3, 1e3))
def test_lora_scaling_is_alpha_over_rank_or_its_root(rank, alpha):
    """alpha / r for LoRA, alpha / √r for rsLoRA; they agree at rank 1."""
    assert lora_scaling(alpha, rank) == alpha / rank
    assert lora_scaling(alpha, rank, rslora=True) == alpha / math.sqrt(rank)
    assert lora_scaling(alpha, 1) == lora_scaling(alpha, 1, rslora=True)


def test_rslora_acts_root_rank_times_as_strongly():
    """The same tensors: the update is √r times LoRA's, which is what ignoring the flag silently loses."""
    plain, stable = make(rank=4, alpha=3), make(rank=4, alpha=3, rslora=True)
    x = torch.randn(5, 6)
    with torch.no_grad():
        ratio = (stable(x) - stable.base(x)) / (plain(x) - plain.base(x))
    assert ratio.flatten().tolist() == pytest.approx([2.0] * ratio.numel(), rel=1e-3)


def test_layer_is_silent():
    """No warning in making, running, merging."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = make()
        layer(torch.randn(2, 6))
        layer.merge()
