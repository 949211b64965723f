"""lora_scratch/fast/dropout.py: the law of nn.Dropout, entry by entry, from torch's global generator."""

from contextlib import suppress

import pytest
import torch
from support.dispatched import dispatched
from torch import nn

from lora_scratch.fast import dropout
from lora_scratch.fast.dropout import _is_kept, _native_mask, cheap_dropout, cheap_dropouts, keep_mask, mask_, masked
from lora_scratch.layers import LoRALinear


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cheap_dropout_keeps_each_entry_scaled_or_zeroes_it(p, dtype):
    """Two values alone: 0 and x / q, with q the keep probability in steps of 2⁻¹⁶."""
    x = torch.randn(1000).to(dtype)
    y = cheap_dropout(x, p)
    kept = y != 0
    keep = 1 - round(p * 2**16) / 2**16
    assert y.dtype == dtype
    assert torch.equal(y[kept], (x * (1 / keep))[kept])


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.99])
def test_cheap_dropout_has_the_moments_of_the_bernoulli_law(p):
    """Over a million draws the mean is 1 and the variance p / q, each within five standard errors."""
    n = 1_000_000
    y = cheap_dropout(torch.ones(n, dtype=torch.float64), p)
    p = round(p * 2**16) / 2**16
    q = 1 - p
    assert abs(y.mean() - 1) < 5 * (p / q / n) ** 0.5
    squares = (y - 1) ** 2  # 1 with probability p, (p / q)² with q
    assert abs(squares.mean() - p / q) < 5 * ((p + p**4 / q**3 - (p / q) ** 2) / n) ** 0.5 + 1e-9


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 64])
def test_cheap_dropout_decides_for_each_entry_on_its_own(lag):
    """Entries that share a 64-bit word, and those that do not, are uncorrelated."""
    n = 400_000
    y = cheap_dropout(torch.ones(n, dtype=torch.float64), 0.5) - 1  # ±1
    assert abs((y[:-lag] * y[lag:]).mean()) < 5 / n**0.5


@pytest.mark.parametrize("drop", [1, 255, 256, 257, 6554, 2**15, 2**15 + 1, 2**16 - 257, 2**16 - 1])
def test_of_all_pairs_of_bytes_so_many_drop_as_the_probability_says(drop):
    """Each of the 2¹⁶ pairs once, so the probability is exact. And what entries with one second byte have in common."""
    byte = torch.arange(256, dtype=torch.uint8)
    dropped = ~_is_kept(byte[:, None].expand(256, 256), byte, drop)  # by first byte and second byte
    assert int(dropped.sum()) == drop
    rest = min(drop, 2**16 - drop) % 256 / 256
    covariance = dropped.double().mean(0).var(correction=0)  # of two entries, whose first bytes are independent
    assert float(covariance) == pytest.approx(rest * (1 - rest) / 2**16, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("lag", [1, 7, 8, 50_000, 100_000])
def test_entries_are_nearly_independent_where_second_bytes_decide(lag):
    """At p = 0.1 also entries an eighth of the tensor apart, which share a second byte: a correlation of 4e-5."""
    n = 400_000
    y = cheap_dropout(torch.ones(n, dtype=torch.float64), 0.1) - 1
    p = round(0.1 * 2**16) / 2**16
    assert abs((y[:-lag] * y[lag:]).mean() / (p / (1 - p))) < 5 / (n - lag) ** 0.5 + 4e-5


def test_two_calls_draw_different_masks():
    """Query, key and value each have a mask of their own."""
    x = torch.ones(64, 64)
    assert not torch.equal(cheap_dropout(x, 0.5), cheap_dropout(x, 0.5))


def test_the_gradient_has_the_mask_of_the_forward_pass():
    """dy/dx is keep / q: the same entries, the same scale."""
    x = torch.randn(7, 9, requires_grad=True)
    y = cheap_dropout(x, 0.3)
    gradient = torch.randn(7, 9)
    y.backward(gradient)
    assert torch.allclose(x.grad * x, gradient * y, atol=1e-6)
    assert torch.equal(x.grad == 0, y == 0)


def test_the_global_generator_seeds_and_resumes_the_masks():
    """One seed, one mask; a saved state gives the next mask again."""
    x = torch.ones(101)
    torch.manual_seed(5)
    first, state, second = cheap_dropout(x, 0.5), torch.get_rng_state(), cheap_dropout(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(cheap_dropout(x, 0.5), first)
    torch.set_rng_state(state)
    assert torch.equal(cheap_dropout(x, 0.5), second)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_probability_that_decides_nothing_draws_no_random_number(p):
    """At 0 every entry is kept, at 1 none is, and the state of the generator stays."""
    x, state = torch.randn(9), torch.get_rng_state()
    assert torch.equal(cheap_dropout(x, p), (1 - p) * x)
    assert torch.equal(torch.get_rng_state(), state)


def test_module_is_the_identity_in_evaluation_and_at_zero():
    """The very tensor in evaluation; at p = 0 every value; at p = 1 nothing is left."""
    x, layers = torch.randn(5), nn.ModuleList([nn.Dropout(0.5).eval(), nn.Dropout(0.0), nn.Dropout(1.0)])
    with cheap_dropouts(layers):
        assert layers[0](x) is x
        assert torch.equal(layers[1](x), x)
        assert torch.equal(layers[2](x), torch.zeros(5))


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (2, 3, 5)])
def test_cheap_dropout_takes_shapes_that_fill_no_whole_word(shape):
    """Eight entries share a word; the last word may be used in part."""
    assert cheap_dropout(torch.ones(shape), 0.25).shape == shape


class Special(nn.Dropout):
    """A subclass, which may mean something else."""


def test_swap_reaches_the_dropouts_of_adapters_and_base_and_is_undone(monkeypatch):
    """Inside every plain dropout is cheap, with its p; outside nothing has changed, also after an exception."""
    probabilities, x = [], torch.ones(4)
    monkeypatch.setattr(dropout, "cheap_dropout", lambda x, p: probabilities.append(p) or x)
    model = nn.Sequential(nn.Dropout(0.2), LoRALinear(nn.Linear(4, 4), rank=2, dropout=0.3), Special(0.4))
    before = list(model.modules())
    with suppress(KeyError), cheap_dropouts(model):
        model(x)
        raise KeyError
    model(x)
    assert probabilities == [0.2, 0.3]
    assert all(now is then for now, then in zip(model.modules(), before, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())


def test_swap_keeps_the_mode_of_every_module():
    """A dropout in evaluation stays so inside; what train() or eval() did inside holds afterwards."""
    model = nn.Sequential(nn.Dropout(0.2).eval(), nn.Dropout(0.2))
    with cheap_dropouts(model):
        assert [m.training for m in model] == [False, True]
        model.eval()
    assert [m.training for m in model] == [False, False]


def test_swap_leaves_the_hooks_of_a_dropout_in_place():
    """A hook is called inside as it is outside."""
    model, seen = nn.Sequential(nn.Dropout(0.2)), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    with cheap_dropouts(model):
        model(torch.ones(3))
    assert seen == [1]


def test_a_gpus_mask_is_one_kernel_and_so_is_its_product():
    """Random numbers, a comparison and a cast would be five. The meta device stands in for a GPU."""
    x = torch.randn(3, 5, device="meta", dtype=torch.bfloat16, requires_grad=True)
    with dispatched() as operators:
        keep, probability = keep_mask(x, 0.25)
    assert operators.kernels == ["native_dropout"]
    assert (keep.dtype, keep.shape, keep.requires_grad, probability) == (torch.bool, x.shape, False, 0.75)
    with dispatched() as operators:
        product = masked(x, keep)
    assert operators.kernels == ["mul"]
    assert product.dtype == x.dtype


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpus_mask_drops_with_probability_p(p, dtype):
    """Its mean over 400,000 entries within five standard errors, whatever x holds; neighbours decide on their own."""
    n = 400_000
    keep = _native_mask(torch.zeros(n, dtype=dtype), p).double()
    assert abs(keep.mean() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    assert abs(((keep[1:] - 1 + p) * (keep[:-1] - 1 + p)).mean()) < 5 * p * (1 - p) / n**0.5


@pytest.mark.parametrize("kind", [torch.bool, torch.int8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_masked_is_the_product_in_the_dtype_of_x(kind, dtype):
    """Not scaled, every kept entry in its own bits, also the largest and the smallest; x itself without a mask."""
    limits = torch.finfo(dtype)
    x = torch.cat([torch.randn(50), torch.tensor([limits.max, limits.min, limits.tiny / 4, torch.inf, -0.0])]).to(dtype)
    keep = torch.cat([torch.rand(50) < 0.5, torch.tensor([True] * 5)])
    expected = torch.where(keep, x, 0)
    assert torch.equal(masked(x, keep.to(kind)), expected)
    assert masked(x, None) is x
    assert mask_(x, None) is x
    assert mask_(x, keep.to(kind)) is x
    assert torch.equal(x, expected)


def test_a_mask_reads_an_x_that_lies_across_its_memory():
    """A transposed x: entries where they belong."""
    x, keep = torch.randn(6, 4).bfloat16(), (torch.rand(4, 6) < 0.5).to(torch.int8)
    assert torch.equal(masked(x.T, keep), torch.where(keep.bool(), x.T, 0))
    assert torch.equal(mask_(x.T, keep), x.T)
    assert torch.equal(x.T != 0, keep.bool())


def test_a_probability_just_below_one_keeps_a_scale():
    """Rounded to 1 it would divide by zero."""
    keep, probability = keep_mask(torch.ones(4, 64), 1 - 1e-9)
    assert keep is not None
    assert probability == 2**-16
