"""Laws of lora_scratch/data/batches.py: a plan is a pure function, holds every row once, and wastes little padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dispatched import dispatched
from support.tiny import tiny_rows
from torch import Tensor

from lora_scratch.data import Encoded, collate, plan_batches, plan_eval_batches, shard_batch
from lora_scratch.data.batches import IGNORED
from lora_scratch.errors import ConfigError

lengths_of_rows = st.lists(st.integers(1, 512), max_size=400).map(lambda values: torch.tensor(values, dtype=torch.int64))
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**40)
property_test = settings(max_examples=80, deadline=None)


def padded_tokens(plan: list[list[int]], lengths: Tensor) -> int:
    return sum(len(batch) * int(lengths[batch].max()) for batch in plan)


@property_test
@given(lengths_of_rows, sizes, seeds, st.integers(0, 5))
def test_plan_holds_every_row_once(lengths: Tensor, batch_size: int, seed: int, epoch: int) -> None:
    """All batches together are the rows; all are full but one."""
    plan = plan_batches(lengths, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(row for batch in plan for row in batch) == list(range(len(lengths)))
    assert sorted((len(batch) for batch in plan), reverse=True)[:-1] == [batch_size] * (len(plan) - 1)
    assert len(plan) == -(-len(lengths) // batch_size)


@property_test
@given(st.lists(st.integers(0, 39), min_size=1, max_size=12, unique=True), st.integers(1, 5))
def test_processes_together_have_every_row_of_a_batch_once(rows: list[int], world: int) -> None:
    """Rows with a label, over all shares, are the batch; a share without rows has one row whose label no loss counts."""
    lengths = torch.arange(40) % 7 + 1
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    encoded = Encoded(torch.ones(int(offsets[-1]), dtype=torch.int32), offsets, torch.arange(40) % 3, 0, 8)
    shares = [shard_batch(encoded, rows, rank=rank, world=world, pad_token_id=0) for rank in range(world)]
    assert all(len(each.labels) for each in shares)
    pairs = [pair for each in shares for pair in zip(each.rows.tolist(), each.labels.tolist(), strict=True)]
    counted = [pair for pair in pairs if pair[1] != IGNORED]
    assert sorted(counted) == sorted((row, row % 3) for row in rows)
    assert max(len(each.labels) for each in shares) - min(len(each.labels) for each in shares) <= 1


@property_test
@given(lengths_of_rows, sizes, seeds)
def test_plan_depends_on_its_arguments_alone(lengths: Tensor, batch_size: int, seed: int) -> None:
    """The global generator is neither read nor moved, and the lengths are left as they are."""
    copy = lengths.clone()
    torch.manual_seed(1)
    first = plan_batches(lengths, batch_size=batch_size, seed=seed, epoch=0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert plan_batches(lengths, batch_size=batch_size, seed=seed, epoch=0) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(lengths, copy)


def test_plan_differs_between_epochs_and_seeds() -> None:
    """Another epoch or seed has other batches, not the same ones in another order."""
    lengths = torch.randint(1, 100, (500,), generator=torch.Generator().manual_seed(0))
    plans = [plan_batches(lengths, batch_size=16, seed=seed, epoch=epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len({frozenset(frozenset(batch) for batch in plan) for plan in plans}) == 3


@property_test
@given(st.integers(600, 3000), st.sampled_from([8, 16, 32]), seeds)
def test_plan_wastes_less_than_a_third_of_the_padding_of_random_batches(n: int, batch_size: int, seed: int) -> None:
    """Rows of like length stand together."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 128, (n,), generator=generator)
    random_plan = [batch.tolist() for batch in torch.split(torch.randperm(n, generator=generator), batch_size)]
    plan = plan_batches(lengths, batch_size=batch_size, seed=seed, epoch=0)
    wasted = padded_tokens(plan, lengths) - int(lengths.sum())
    assert wasted < (padded_tokens(random_plan, lengths) - int(lengths.sum())) / 3


def test_plan_mixes_short_and_long_batches_over_the_epoch() -> None:
    """Batches are shuffled: length does not rise or fall along the epoch (|rank correlation| stays small)."""
    lengths = torch.arange(1, 3201)
    means = torch.tensor(
        [float(lengths[batch].float().mean()) for batch in plan_batches(lengths, batch_size=16, seed=0, epoch=0)]
    )
    correlation = torch.corrcoef(torch.stack([torch.arange(len(means)).float(), means]))[0, 1]
    assert abs(float(correlation)) < 0.2


@property_test
@given(lengths_of_rows, st.integers(1, 300))
def test_plan_in_order_holds_every_row_once_longest_first(lengths: Tensor, batch_tokens: int) -> None:
    """The lengths never rise from row to row, and equal ones stay in data-set order."""
    rows = [row for batch in plan_eval_batches(lengths, batch_tokens=batch_tokens) for row in batch]
    assert rows == sorted(range(len(lengths)), key=lambda row: (-int(lengths[row]), row))


@property_test
@given(lengths_of_rows.filter(len), st.integers(1, 300))
def test_plan_in_order_fills_batches_up_to_the_tokens_that_they_may_have(lengths: Tensor, batch_tokens: int) -> None:
    """Padded to its longest row no batch has more, but for a row alone; and no batch could take its next row as well."""
    plan = plan_eval_batches(lengths, batch_tokens=batch_tokens)
    for batch, following in zip(plan, [*plan[1:], None], strict=True):
        longest = max(1, int(lengths[batch].max()))
        assert len(batch) * longest <= batch_tokens or len(batch) == 1
        assert following is None or (len(batch) + 1) * longest > batch_tokens


def test_plan_refuses_a_batch_without_rows() -> None:
    """It would go on for ever."""
    with pytest.raises(ConfigError, match="--batch_size: a batch of 0 rows; expected at least 1"):
        plan_batches(torch.tensor([1, 2, 3]), batch_size=0, seed=0, epoch=0)


@st.composite
def encoded_and_rows(draw: st.DrawFn) -> tuple[list[list[int]], Encoded, list[int]]:
    texts = draw(st.lists(st.lists(st.integers(1, 99), max_size=12), min_size=1, max_size=12))
    offsets = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0)
    tokens = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    encoded = Encoded(tokens, offsets, torch.arange(len(texts)) + 50, truncated=0, max_tokens=12)
    return texts, encoded, draw(st.lists(st.integers(0, len(texts) - 1), max_size=20))


@property_test
@given(encoded_and_rows())
def test_collate_pads_every_row_to_the_longest(case: tuple[list[list[int]], Encoded, list[int]]) -> None:
    """Row by row: the tokens, then padding; the mask is 1 exactly on the tokens."""
    texts, encoded, rows = case
    batch = collate(encoded, rows, pad_token_id=7)
    width = max((len(texts[row]) for row in rows), default=0)
    assert batch.input_ids.tolist() == [texts[row] + [7] * (width - len(texts[row])) for row in rows]
    assert batch.attention_mask.tolist() == [[1] * len(texts[row]) + [0] * (width - len(texts[row])) for row in rows]
    assert batch.labels.tolist() == [row + 50 for row in rows]
    assert batch.rows.tolist() == rows
    assert {tensor.dtype for tensor in batch.tensors.values()} == {torch.int64}


def test_batch_moves_whole() -> None:
    """`to` moves every tensor."""
    encoded = Encoded(torch.tensor([4, 5], dtype=torch.int32), torch.tensor([0, 2]), torch.tensor([0]), 0, 8)
    batch = collate(encoded, [0], pad_token_id=0).to("meta")
    assert {tensor.device.type for tensor in batch.tensors.values()} == {"meta"}


def test_width_is_rounded_up_but_not_beyond_what_a_row_may_have():
    """So that few widths serve all batches; filling is still masked, and the model still has positions for it."""
    rows = tiny_rows(longest=12)
    shortest = [int(rows.lengths.argmin())]
    length = int(rows.lengths.min())
    for multiple, width in ((1, length), (5, -(-length // 5) * 5), (16, 12)):
        batch = collate(rows, shortest, pad_token_id=0, multiple=multiple)
        assert batch.input_ids.shape == (1, width)
        assert int(batch.attention_mask.sum()) == length
        assert not batch.input_ids[batch.attention_mask == 0].any()


def test_rows_on_a_device_are_collated_there():
    """The host keeps the lengths that it plans by: nothing has to come back from the device."""
    rows = tiny_rows().to("meta")
    assert rows.offsets.device.type == "cpu"
    assert collate(rows, [3, 1, 2], pad_token_id=0).input_ids.device.type == "meta"


def test_a_batch_on_a_device_is_one_message_that_the_host_does_not_wait_for():
    """Row numbers, starts and lengths go there together; the meta device stands in for a GPU."""
    rows = tiny_rows().to("meta")
    with dispatched() as operators:
        collate(rows, [3, 1, 2], pad_token_id=0)
    there = [options for name, options in operators.calls if name == "_to_copy" and str(options.get("device")) == "meta"]
    assert [options.get("non_blocking", False) for options in there] == [True]
    assert "scalar_tensor" not in operators.names
