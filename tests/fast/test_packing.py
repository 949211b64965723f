"""lora_scratch/fast/packing.py: tokens to rows and back, filling left out in both directions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.fast.packing import pack, packing_of_tokens, to_rows, to_rows_with_zeros, to_tokens


def test_packing_of_a_small_batch_by_hand():
    """Rows of 2 and 1 tokens, one head: tokens 0, 1 | 2, and one filling that the mask takes out."""
    packing = pack(torch.tensor([[1, 1], [1, 0]]), heads=1)
    assert packing.first.tolist() == [0, 2]
    assert packing.gather.tolist() == [0, 1, 2, 2]
    assert packing.scatter.tolist() == [0, 1, 2]
    assert packing.mask.flatten().tolist() == [0, 0, 0, -torch.inf]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), heads=st.integers(1, 3))
def test_rows_hold_each_rows_tokens_by_head_and_the_way_back_is_exact(lengths, heads):
    """Row b, head h, place t is head h of that token; to_tokens(to_rows(x)) is x."""
    packing, x = packing_of(lengths, heads), torch.randn(sum(lengths) * heads, 2)
    rows = to_rows(x, packing)
    tokens = x.view(-1, heads, 2).split(lengths)
    for b, row in enumerate(tokens):
        for h in range(heads):
            assert torch.equal(rows[b * heads + h, : lengths[b]], row[:, h])
    assert torch.equal(to_tokens(rows, packing), x)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), heads=st.integers(1, 3))
def test_to_rows_with_zeros_is_to_rows_with_zeros_at_filling(lengths, heads):
    """So a sum over rows is the sum over tokens, and nothing of the filling counts."""
    packing, x = packing_of(lengths, heads), torch.randn(sum(lengths) * heads, 2)
    filling = packing.mask.transpose(1, 2).isinf()
    assert torch.equal(to_rows_with_zeros(x, packing), to_rows(x, packing).masked_fill(filling, 0))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), heads=st.integers(1, 3))
def test_one_token_a_row_is_a_row_already(lengths, heads):
    """First tokens alone, (B·heads, d), become rows of one token and come back as they were."""
    packing, x = packing_of(lengths, heads), torch.randn(len(lengths) * heads, 2)
    assert torch.equal(to_rows(x, packing), x[:, None])
    assert torch.equal(to_rows_with_zeros(x, packing), x[:, None])
    assert torch.equal(to_tokens(x[:, None], packing), x)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), heads=st.integers(1, 3))
def test_the_packing_of_whole_tokens_is_that_of_one_head(lengths, heads):
    """Entry for entry, whatever the number of heads it is made from."""
    found, expected = packing_of_tokens(packing_of(lengths, heads)), packing_of(lengths, 1)
    assert found.heads == 1
    for name in ("first", "gather", "scatter", "mask"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), heads=st.integers(1, 3), multiple=st.integers(1, 20))
def test_fillers_after_the_tokens_come_from_no_row_and_go_to_none(lengths, heads, multiple):
    """Whatever they hold, NaN too: rows do not see it, and on the way back they are zeros."""
    bare, packing, tokens = packing_of(lengths, heads), packing_of(lengths, heads, multiple), sum(lengths) * heads
    x = torch.randn(tokens + packing.fillers * heads, 2)
    x[tokens:] = torch.nan
    for copy in (to_rows, to_rows_with_zeros):
        assert torch.equal(copy(x, packing), copy(x[:tokens], bare))
    back = to_tokens(to_rows(x, packing), packing)
    assert torch.equal(back[:tokens], x[:tokens])
    assert not back[tokens:].any()
    assert len(back) == len(x)
    assert (sum(lengths) + packing.fillers) % multiple == 0 or max(lengths) == 1
    assert packing_of_tokens(packing).fillers == packing.fillers < multiple


def packing_of(lengths, heads, multiple=1):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return pack(mask.long(), heads=heads, multiple=multiple)
