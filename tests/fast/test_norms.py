"""lora_scratch/fast/norms.py: the norm of float64, rounded once; off in other dtypes, undone afterwards."""

from contextlib import suppress
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from support.families import tiny
from support.machines import MACHINES, playing
from support.passes import adapted, batch_of
from torch import nn

from lora_scratch.fast.norms import half_precision_norms
from lora_scratch.fast.path import fast_path
from lora_scratch.model.forward import classify
from lora_scratch.runtime.precision import Precision

CPU = torch.device("cpu")
BF16, FP32 = (Precision(dtype, CPU) for dtype in (torch.bfloat16, torch.float32))
ROUNDING = torch.finfo(torch.bfloat16).eps / 2  # the largest error of one rounding, of the number itself
SUMS = 1e-5  # of the largest entry: what float32 sums over a row may be off

ANY_MACHINE = pytest.mark.parametrize("machine", ["AMX", "AVX-512 with bfloat16", "AVX-512", "AVX2"])


def norm_of(width=48, *, trained=False):
    """With a weight and a bias that are not one and zero."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(width, eps=1e-3)
    for tensor in (norm.weight, norm.bias):
        nn.init.normal_(tensor, mean=0.5)
    return norm.requires_grad_(trained)


def computed(norm, x, g, *, precision=BF16):
    """Output and gradient of x under autocast, with the lever on."""
    x = x.clone().requires_grad_()
    with half_precision_norms(nn.ModuleList([norm]), precision), precision.autocast():
        y = norm(x)
    return y.detach(), *torch.autograd.grad(y, x, g.to(y.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(7, 48), (1, 5, 48)])
def test_output_and_gradient_are_those_of_float64_rounded_once(dtype, shape):
    """x in bfloat16 inside the model, in float32 after the embeddings."""
    norm, x, g = norm_of(), (3 * torch.randn(shape) + 1).to(dtype), torch.randn(shape).bfloat16()
    exact = x.double().requires_grad_()
    y = F.layer_norm(exact, (48,), norm.weight.double(), norm.bias.double(), norm.eps)
    expected = y.detach(), *torch.autograd.grad(y, exact, g.double())
    found = computed(norm, x, g)
    assert (found[0].dtype, found[1].dtype) == (torch.bfloat16, dtype)
    for f, e in zip(found, expected, strict=True):
        assert bool(((f - e).abs() <= ROUNDING * e.abs() + SUMS * e.abs().max()).all())


def test_mean_and_variance_are_not_those_of_rounded_sums():
    """A row of 48 entries near 1,000: in bfloat16 their sum would be off by more than they differ."""
    x = (1000 + 8 * torch.randn(4, 48)).bfloat16()
    norm = norm_of()
    exact = F.layer_norm(x.double(), (48,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert float((computed(norm, x, x)[0] - exact).abs().max()) <= 2 * ROUNDING * float(exact.abs().max())


def test_a_trained_norm_has_the_gradients_of_float64():
    """Of weight and bias, in float32: sums over the rows."""
    norm, x, g = norm_of(trained=True), torch.randn(7, 48).bfloat16(), torch.randn(7, 48).bfloat16()
    exact = deepcopy(norm).double()
    exact(x.double()).backward(g.double())
    with half_precision_norms(nn.ModuleList([norm]), BF16), BF16.autocast():
        norm(x).backward(g)
    for f, e in zip(norm.parameters(), exact.parameters(), strict=True):
        assert f.grad.dtype is torch.float32
        assert float((f.grad - e.grad).abs().max()) <= SUMS * float(e.grad.abs().max())


@ANY_MACHINE
def test_a_base_has_the_same_bits_before_and_after_it_is_frozen(machine):
    """So an adapter starts exactly as the base that was measured, though that was not frozen then."""
    model, batch, logits = tiny("bert"), batch_of([7, 3, 5] * 5), []
    for trained in (True, False):
        model.requires_grad_(trained)
        with playing(MACHINES[machine], torch.bfloat16), fast_path(model, BF16), BF16.autocast(), torch.no_grad():
            logits.append(classify(model, batch))
    assert torch.equal(*logits)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, "cpu"), (torch.float16, "cpu"), (torch.bfloat16, "cuda")])
def test_norms_stay_as_they_are(dtype, device):
    """In float32; in float16, where a sum may be too large; and on a GPU, where nobody has measured it."""
    norm = norm_of()
    with half_precision_norms(nn.ModuleList([norm]), Precision(dtype, torch.device(device))):
        assert "forward" not in vars(norm)


@ANY_MACHINE
def test_sums_of_the_blocks_are_bfloat16_inside_and_float32_after(machine):
    """What every norm reads: the embeddings' sum in float32, all others in half of the memory. Undone by an exception."""
    model, batch, seen = adapted("bert"), batch_of([7, 3, 5] * 5), []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with playing(MACHINES[machine], torch.bfloat16), suppress(KeyError), fast_path(model, BF16), BF16.autocast():
        classify(model, batch)
        raise KeyError
    assert seen == [torch.float32] + [torch.bfloat16] * 4
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.filterwarnings("ignore:.*is computed with padding")
def test_a_model_that_is_not_packed_keeps_its_norms():
    """The blocks of others may add up what no norm follows."""
    model = tiny("gpt2")
    with playing(MACHINES["AMX"], torch.bfloat16), fast_path(model, BF16):
        assert not any("forward" in vars(m) for m in model.modules() if isinstance(m, nn.LayerNorm))
