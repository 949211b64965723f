"""lora_scratch/training/movement_check.py: a still adapter is an error, and so is a frozen weight that moves."""

import pytest
import torch
from support.dispatched import dispatched
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.errors import TrainingError
from lora_scratch.training.movement_check import BLOCK, ROW, MovementCheck


@torch.no_grad()
def move_adapter(model, *, but=()):
    for name, layer in adapter_layers(model).items():
        if name not in but:
            for tensor in layer.adapter_tensors().values():
                tensor.add_(1e-3)


def adapted():
    return inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))


def test_guard_is_silent_when_every_adapter_tensor_moved():
    """The healthy case."""
    model = adapted()
    guard = MovementCheck(model)
    move_adapter(model)
    guard.check()


def test_guard_names_the_modules_that_stand_still():
    """A dead module is named, with its tensors."""
    model = adapted()
    guard = MovementCheck(model)
    dead = "distilbert.transformer.layer.1.attention.k_lin"
    move_adapter(model, but=[dead])
    with pytest.raises(TrainingError, match=f"2 adapter tensors have not moved, first {dead}.lora_A.weight"):
        guard.check()


@pytest.mark.parametrize("change", ["one bit", "two values swapped"])
def test_guard_names_a_frozen_weight_that_changed(change):
    """One changed bit is enough, and so is a mere change of order."""
    model = adapted()
    guard = MovementCheck(model)
    move_adapter(model)
    weight = model.distilbert.transformer.layer[0].ffn.lin1.weight.data
    if change == "one bit":
        weight.view(torch.int32)[3, 4] ^= 1
    else:
        weight[0, 0], weight[5, 5] = weight[5, 5].clone(), weight[0, 0].clone()
    with pytest.raises(TrainingError, match=r"frozen weights have changed: .*layer\.0\.ffn\.lin1\.weight"):
        guard.check()


def frozen(**tensors):
    """A module of frozen parameters."""
    return nn.ParameterDict({name: nn.Parameter(t, requires_grad=False) for name, t in tensors.items()})


def many(seed=0):
    """Three hundred small ones, and one that fills more than a block."""
    generator = torch.Generator().manual_seed(seed)
    small = {f"p{number}": torch.randn(7, number % 5 + 1, generator=generator) for number in range(300)}
    return frozen(**small, large=torch.randn(BLOCK + 3 * ROW + 17, generator=generator))


@pytest.mark.parametrize("name", ["p0", "p7", "p299", "large"])
def test_guard_names_the_one_of_many_that_changed(name):
    """Tensors that are looked at together are told apart, at their last entry too."""
    model = many()
    guard = MovementCheck(model)
    guard.check()
    model[name].data.view(-1)[-1:].view(torch.int32)[0] ^= 1
    with pytest.raises(TrainingError, match=rf"frozen weights have changed: {name}$"):
        guard.check()


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int8,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128])
@pytest.mark.parametrize("shape", [(), (1,), (40, 30)])
def test_guard_sees_every_bit_of_every_dtype(dtype, shape):
    """The lowest bit of the last entry, of scalars too, beside tensors of other dtypes."""
    model = frozen(a=torch.ones(3), b=torch.ones(shape).to(dtype), empty=torch.empty(0, dtype=torch.int16))
    guard = MovementCheck(model)
    guard.check()
    model["b"].data.view(-1).view(torch.uint8)[-model["b"].element_size()] ^= 1
    with pytest.raises(TrainingError, match="frozen weights have changed: b"):
        guard.check()


def test_guard_sees_a_change_in_a_tensor_that_is_not_contiguous():
    """Its entries are read in their order."""
    model = frozen(turned=torch.randn(6, 5).T, spread=torch.randn(20)[::2])
    guard = MovementCheck(model)
    guard.check()
    model["turned"].data[0, 0], model["turned"].data[0, 1] = model["turned"][0, 1].clone(), model["turned"][0, 0].clone()
    with pytest.raises(TrainingError, match="frozen weights have changed: turned"):
        guard.check()


def test_guard_launches_a_few_operators_for_all_tensors():
    """For 301 tensors a tenth as many operators, and no question to the device for any one of them."""
    model = many()
    with dispatched() as begun:
        guard = MovementCheck(model)
    with dispatched() as checked:
        guard.check()
    work = [name for name in begun.kernels if name != "new_zeros"]
    assert len(work) <= 20
    assert len([name for name in checked.kernels if name != "new_zeros"]) <= 30
    assert not {"equal", "_local_scalar_dense", "item"} & {*begun.names, *checked.names}


def test_guard_sees_changes_that_cancel_in_a_sum_weighted_by_position():
    """Entry 1 less 2 and entry 2 more 1: either sum alone would miss some change."""
    model = frozen(whole=torch.tensor([5, 5, 5], dtype=torch.int32))
    guard = MovementCheck(model)
    model["whole"].data += torch.tensor([-2, 1, 0], dtype=torch.int32)
    with pytest.raises(TrainingError, match="frozen weights have changed: whole"):
        guard.check()
