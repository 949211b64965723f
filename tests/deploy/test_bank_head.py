"""lora_scratch/deploy/bank_head.py: every row through its own head, whatever a head is made of."""

import copy

import pytest
import torch
from torch import nn

from lora_scratch.deploy.bank_head import BankHead
from lora_scratch.deploy.bank_layers import Routing
from lora_scratch.testing import relative_error


class FirstToken(nn.Module):
    """A head as RoBERTa has it: dense, norm and output over the first token; and one option."""

    def __init__(self, outputs, *, bias=True):
        super().__init__()
        self.dense, self.norm, self.out = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, outputs, bias=bias)

    def forward(self, x, *, sign=1):
        return sign * self.out(self.norm(torch.tanh(self.dense(x[:, 0]))))


class WithStatistics(nn.Sequential):
    """Buffers belong to a head as well, whole numbers too."""

    def __init__(self, outputs):
        super().__init__(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, outputs))
        self.register_buffer("order", torch.randperm(outputs))

    def forward(self, x):
        return super().forward(x)[:, self.order]


def banked(heads, rows, *, slots=5):
    """The first head as base, the others in slots 1, 2, ..."""
    for seed, head in enumerate(heads):
        generator = torch.Generator().manual_seed(seed)
        for tensor in (*head.parameters(), *head.buffers()):
            if tensor.is_floating_point():
                tensor.data.uniform_(0.2, 1, generator=generator)
    bank = BankHead(heads[0].eval(), Routing(), slots=slots).eval()
    for slot, head in enumerate(heads[1:], 1):
        bank.write(slot, head.eval())
    bank.routing.rows, bank.routing.strength = torch.tensor(rows), torch.ones(len(rows))
    return bank


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 4), (6,)),
        (lambda: nn.Linear(6, 4, bias=False), (3, 6)),
        (lambda: FirstToken(4), (3, 6)),
        (lambda: WithStatistics(4), (6,)),
    ],
    ids=["linear", "no bias", "first token", "statistics"],
)
def test_every_row_goes_through_its_own_head(make, shape):
    """In float64 to 1e-12, base and slots never written included; options of the call are handed on."""
    rows = [2, 0, 1, 4, 2]
    heads = [make().double() for _ in range(3)]
    bank = banked(heads, rows)
    x = torch.randn(len(rows), *shape, dtype=torch.float64)
    for i, row in enumerate(rows):
        assert relative_error(bank(x)[i], heads[row % 4](x[i : i + 1])[0]) < 1e-12
    if isinstance(heads[0], FirstToken):
        assert torch.equal(bank(x, sign=-1), -bank(x))


@pytest.mark.parametrize("bias", [True, False])
def test_narrower_heads_are_filled_up_with_impossible_labels(bias):
    """-inf, with and without a bias to hide it in: the softmax is that of the row's own head."""
    rows = [0, 1, 2, 3]
    heads = [FirstToken(outputs, bias=bias) for outputs in (3, 2, 5, 3)]
    bank = banked(heads, rows)
    x = torch.randn(len(rows), 2, 6)
    logits = bank(x)
    assert logits.shape == (4, 5)
    for i, head in enumerate(heads):
        own = head(x[i : i + 1])[0]
        torch.testing.assert_close(logits[i, : len(own)], own)
        assert logits[i, len(own) :].eq(-torch.inf).all()
        torch.testing.assert_close(logits[i].softmax(0)[: len(own)], own.softmax(0))


def test_writing_a_head_leaves_the_others_bit_for_bit():
    """Also a wider one; and the slot holds nothing of what was in it before."""
    bank = banked([nn.Linear(6, 3), nn.Linear(6, 3)], [0, 1])
    x = torch.randn(2, 6)
    before = bank(x)
    bank.write(2, nn.Linear(6, 7))
    assert torch.equal(bank(x)[:, :3], before)
    bank.write(2, bank.base)
    bank.routing.rows = torch.tensor([2, 0])
    expected = bank.base(x)
    torch.testing.assert_close(bank(x)[:, :3], expected)
    assert bank(x)[:, 3:].eq(-torch.inf).all()


def test_switched_off_it_is_the_base_head_bit_for_bit():
    """Without filling, and without rows."""
    bank = banked([nn.Linear(6, 3), nn.Linear(6, 5)], [1, 1])
    bank.routing.enabled, bank.routing.rows = False, None
    x = torch.randn(2, 6)
    assert torch.equal(bank(x), bank.base(x))
    options = BankHead(FirstToken(3).eval(), Routing(), slots=2)
    options.routing.enabled = False
    tokens = torch.randn(2, 4, 6)
    assert torch.equal(options(tokens, sign=-1), -options.base(tokens))
    pair = BankHead(nn.Bilinear(6, 6, 3), Routing(), slots=2)
    pair.routing.enabled = False
    assert torch.equal(pair(x, -x), pair.base(x, -x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_heads_of_a_narrow_base_are_kept_in_float32(dtype):
    """An adapter's head is trained in float32; a narrow base would round it. Whole numbers stay whole."""
    bank = BankHead(WithStatistics(4).to(dtype), Routing(), slots=2)
    kinds = {tensor.dtype for tensor in bank.buffers(recurse=False)}
    assert kinds == {torch.float32, torch.int64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_in_a_narrow_model_works_without_autocast(dtype):
    """It computes in float32, and answers in the dtype of the model."""
    heads = [nn.Linear(6, 3).to(dtype) for _ in range(2)]
    bank, x = banked(heads, [0, 1]), torch.randn(2, 6).to(dtype)
    assert bank(x).dtype == dtype
    for row, head in enumerate(heads):
        torch.testing.assert_close(bank(x)[row], head.float()(x[row].float()).to(dtype))


def test_a_head_in_training_drops_entries_of_every_row_apart():
    """A head with dropout, as it is left in training mode."""
    bank = banked([nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 8))], [0, 0]).train()
    x = torch.ones(2, 64)
    y = bank(x)
    assert not torch.equal(y[0], y[1])


def test_the_head_of_a_bank_saves_nothing_but_its_base():
    """Neither slots nor widths."""
    bank = banked([nn.Linear(6, 3), nn.Linear(6, 5)], [1, 1])
    assert bank.state_dict().keys() == {"base.weight", "base.bias"}
    assert bank.width.tolist() == [3, 5, 3, 3, 3]


def test_widths_are_of_the_last_dimension():
    """A head that answers for every token: (B, T, labels)."""
    bank = banked([nn.Linear(6, 3), nn.Linear(6, 5)], [0, 1])
    y = bank(torch.randn(2, 7, 6))
    assert y.shape == (2, 7, 5)
    assert y[0].eq(-torch.inf).any(0).tolist() == [False, False, False, True, True]
    assert y[1].isfinite().all()


def test_rows_have_to_be_named():
    """As in every layer of a bank."""
    bank = banked([nn.Linear(6, 3)], [0, 0])
    with pytest.raises(ValueError, match="3 rows where 2 have named"):
        bank(torch.randn(3, 6))


def test_base_head_is_not_written_to():
    """The base's own tensors stay, bit for bit."""
    head = FirstToken(3)
    bank = banked([head, FirstToken(3)], [1, 0])
    before = copy.deepcopy(head.state_dict())
    bank(torch.randn(2, 2, 6))
    bank.write(1, FirstToken(4))
    assert all(torch.equal(head.state_dict()[name], value) for name, value in before.items())


def test_a_head_that_is_narrow_inside_loses_no_label():
    """The width is that of the output: two numbers inside do not limit four labels."""
    bank = banked([nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 4)) for _ in range(2)], [0, 1])
    assert bank.width is None
    assert bank(torch.randn(2, 6)).isfinite().all()
