"""lora_scratch/fast/attention.py: the formula of the paper row by row, and gradients that autograd confirms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_scratch.fast.attention import attention
from lora_scratch.fast.packing import pack

HEADS, WIDTH = 2, 3
lengths_of_rows = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def case(lengths, *, first_only, dtype=torch.float64):
    """A packing, and queries, keys and values of its tokens, (N·heads, d); queries of first tokens alone if asked."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    torch.manual_seed(len(lengths))
    sizes = [len(lengths) if first_only else sum(lengths), sum(lengths), sum(lengths)]
    inputs = [torch.randn(n * HEADS, WIDTH, dtype=dtype, requires_grad=True) for n in sizes]
    return pack(mask.long(), heads=HEADS), inputs


def row_by_row(q, k, v, lengths, *, scaling):
    """softmax(q kᵀ · scaling) v of each row and head alone."""
    k_rows, v_rows = (x.view(-1, HEADS, WIDTH).split(lengths) for x in (k, v))
    q_rows = q.view(-1, HEADS, WIDTH).split(lengths if len(q) == len(k) else [1] * len(lengths))
    mixed = [
        torch.einsum("ihj,jhd->ihd", (torch.einsum("ihd,jhd->ihj", q, k) * scaling).softmax(-1), v)
        for q, k, v in zip(q_rows, k_rows, v_rows, strict=True)
    ]
    return torch.cat(mixed).view(-1, WIDTH)


@settings(deadline=None)
@given(lengths=lengths_of_rows, first_only=st.booleans())
def test_attention_is_the_formula_of_each_row_alone(lengths, first_only):
    """Float64 against the dense formula: 1e-6, since the softmax is float32; no row sees another."""
    packing, (q, k, v) = case(lengths, first_only=first_only)
    found = attention(q, k, v, packing, scaling=0.7)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, row_by_row(q, k, v, lengths, scaling=0.7), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(lengths=lengths_of_rows, first_only=st.booleans())
def test_gradients_are_those_that_autograd_finds_through_the_formula(lengths, first_only):
    """Of queries, keys and values, each entry weighted differently."""
    packing, inputs = case(lengths, first_only=first_only)
    weights = torch.randn(len(inputs[0]), WIDTH, dtype=torch.float64)
    expected = torch.autograd.grad((row_by_row(*inputs, lengths, scaling=0.7) * weights).sum(), inputs)
    found = torch.autograd.grad((attention(*inputs, packing, scaling=0.7) * weights).sum(), inputs)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=2e-6)


@pytest.mark.parametrize("first_only", [True, False])
def test_gradients_with_dropout_are_those_of_the_very_masks_that_were_drawn(first_only):
    """With the generator put back every call draws the same masks, so the loss is a function: its slope along any direction
    is the gradient's, in float64 to the float32 of the softmax."""
    packing, inputs = case([4, 1, 3], first_only=first_only)
    direction = [torch.randn_like(x) for x in inputs]

    def loss(step):
        torch.manual_seed(5)
        moved = [x + step * d for x, d in zip(inputs, direction, strict=True)]
        return attention(*moved, packing, scaling=0.7, dropout=0.4).square().sum()

    step = 0.05
    with torch.no_grad():  # Richardson: two central differences whose leading errors cancel
        wide, narrow = ((loss(h) - loss(-h)) / (2 * h) for h in (step, step / 2))
    slope = sum((g * d).sum() for g, d in zip(torch.autograd.grad(loss(0.0), inputs), direction, strict=True))
    assert float(slope) == pytest.approx(float((4 * narrow - wide) / 3), rel=1e-3)


def test_dropout_keeps_the_mean_and_drops_weights_not_outputs():
    """Over many draws the mean is that without dropout within four standard errors; entries are drawn one by one."""
    packing, (q, k, v) = case([5, 2], first_only=False, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([attention(q, k, v, packing, scaling=0.7, dropout=0.3) for _ in range(4000)])
        expected = attention(q, k, v, packing, scaling=0.7)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() < 4.5 * error).all()
    assert (draws == 0).float().mean() < 0.2  # a row of one token alone is zeroed as a whole


def test_less_is_kept_than_autograd_keeps():
    """Of all that is as large as tokens times tokens, the weights and the mask alone, one byte an entry."""
    packing, inputs = case([40, 40], first_only=False, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        attention(*inputs, packing, scaling=0.7, dropout=0.1)
    square = [t for t in kept if t.shape == (2 * HEADS, 40, 40)]
    assert sorted(t.element_size() for t in square) == [1, 4]
