"""lora_scratch/model/packing.py: tokens to rows and back, filling left out in both directions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.model.packing import pack, to_rows, to_tokens


def test_packing_of_a_small_batch_by_hand():
    """Rows of 2 and 1 tokens, one head: tokens 0, 1 | 2, and one filling that the mask takes out."""
    packing = pack(torch.tensor([[1, 1], [1, 0]]), heads=1)
    assert packing.first.tolist() == [0, 2]
    assert packing.gather.tolist() == [0, 1, 2, 2]
    assert packing.scatter.tolist() == [0, 1, 2]
    assert packing.mask.flatten().tolist() == [0, 0, 0, -torch.inf]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), heads=st.integers(1, 3))
def test_rows_hold_each_rows_tokens_by_head_and_the_way_back_is_exact(lengths, heads):
    """Row b, head h, place t is head h of that token; to_tokens(to_rows(x)) is x, and so is its gradient."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    packing = pack(mask.long(), heads=heads)
    x = torch.randn(sum(lengths) * heads, 2, requires_grad=True)
    rows = to_rows(x, packing)
    tokens = x.detach().view(-1, heads, 2).split(lengths)
    for b, row in enumerate(tokens):
        for h in range(heads):
            assert torch.equal(rows[b * heads + h, : lengths[b]], row[:, h])
    back = to_tokens(rows, packing)
    assert torch.equal(back, x)
    gradient = torch.randn_like(back)
    back.backward(gradient)
    assert torch.equal(x.grad, gradient)
