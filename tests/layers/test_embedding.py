"""lora_scratch/layers/embedding.py: every token id looks up an update of its own."""

import pytest
import torch
from torch import nn

from lora_scratch.layers import LoRAEmbedding
from lora_scratch.testing import check_all, move_adapter

IDS = torch.tensor([[0, 3, 8], [5, 5, 1]])


def make(*, padding_idx=None, off_init=False, **options):
    """A table of 9 rows of 4 numbers."""
    layer = LoRAEmbedding(nn.Embedding(9, 4, padding_idx=padding_idx), **{"rank": 2, "alpha": 3} | options)
    if off_init:
        move_adapter(layer)
    return layer


@pytest.mark.parametrize("options", [{}, {"rslora": True, "alpha": 5}, {"dropout": 0.5}])
def test_embedding_obeys_the_laws_of_an_adapter_layer(options):
    """All of them."""
    check_all(lambda: make(**options), IDS)


def test_embedding_adds_a_column_of_a_times_b():
    """y[i] = W[i] + scaling · B A[:, i]."""
    layer = make(off_init=True).double()
    expected = layer.weight[8] + 3 / 2 * layer.lora_embedding_B @ layer.lora_embedding_A[:, 8]
    torch.testing.assert_close(layer(IDS)[0, 2], expected, rtol=1e-12, atol=1e-12)


def test_embedding_starts_with_a_zero_and_b_random():
    """The other way round than a linear layer, as PEFT and loralib have it."""
    layer = make(generator=torch.Generator().manual_seed(1))
    assert not layer.lora_embedding_A.any()
    assert torch.equal(layer.lora_embedding_B, torch.empty(4, 2).normal_(generator=torch.Generator().manual_seed(1)))


def test_embedding_trains_the_looked_up_columns_alone():
    """An id that is not in the batch gets no gradient, and padding gets none either, as in nn.Embedding."""
    layer = make(padding_idx=0)
    layer(IDS).sum().backward()
    touched = layer.lora_embedding_A.grad.abs().sum(0) > 0
    assert touched.nonzero().flatten().tolist() == [1, 3, 5, 8]


def test_embedding_leaves_ids_whole_whatever_the_dropout():
    """Dropout has no place on ids: two passes in training are equal."""
    layer = make(dropout=0.9, off_init=True).train()
    assert torch.equal(layer(IDS), layer(IDS))


def test_embedding_refuses_a_table_that_rewrites_itself():
    """max_norm renormalizes rows while looking them up, so nothing of it is frozen."""
    with pytest.raises(ValueError, match="max_norm"):
        LoRAEmbedding(nn.Embedding(9, 4, max_norm=1.0), 2)


def test_embedding_names_its_tensors_as_peft_does():
    """Without `.weight`: (rank, num) and (dim, rank)."""
    shapes = {name: tuple(tensor.shape) for name, tensor in make().adapter_tensors().items()}
    assert shapes == {"lora_embedding_A": (2, 9), "lora_embedding_B": (4, 2)}


@pytest.mark.parametrize(
    ("options", "message"), [({"rank": 5}, "1 to 4"), ({"alpha": 0}, "alpha"), ({"dropout": -1}, "dropout")]
)
def test_embedding_refuses_arguments_out_of_bounds(options, message):
    """The same bounds as LoRALinear's."""
    with pytest.raises(ValueError, match=message):
        make(**options)
