"""lora_scratch/fast/fused_lora.py: one node of the graph is the layer's formula, its gradients and its law of dropout."""

from contextlib import suppress
from types import MethodType

import pytest
import torch
from torch import nn

from lora_scratch.fast import fused_lora
from lora_scratch.fast.dropout import _native_mask, keep_mask
from lora_scratch.fast.fused_lora import _AddUpdate, fused_updates
from lora_scratch.layers import DoRALinear, LoRALinear
from lora_scratch.testing import move_adapter


def layer_of(inputs=12, outputs=7, *, bias=True, dtype=torch.float32, **options):
    """Away from its start."""
    torch.manual_seed(0)
    made = LoRALinear(nn.Linear(inputs, outputs, bias=bias).to(dtype), **{"rank": 3, "alpha": 5} | options)
    move_adapter(made)
    return made


def output_and_gradients(layer, x, *, autocast=False):
    """y and the gradients of a random projection of it for x, A and B."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), [x, layer.lora_A, layer.lora_B])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
@pytest.mark.parametrize("training", [True, False])
def test_fused_output_and_gradients_are_those_of_the_layer_without_dropout(bias, shape, training):
    """In float64, to rounding."""
    layer = layer_of(bias=bias).double().train(training)
    x = torch.randn(shape, dtype=torch.float64)
    expected = output_and_gradients(layer, x)
    with fused_updates(nn.ModuleList([layer])):
        found = output_and_gradients(layer, x)
    assert all(torch.allclose(f, e, atol=1e-13) for f, e in zip(found, expected, strict=True))


def test_fused_output_and_gradients_under_autocast_are_those_of_the_layer_to_bfloat16():
    """Scaling inside the products rounds less, not more: 2 % of the largest entry."""
    layer, x = layer_of(96, 64, rank=8), torch.randn(20, 96)
    expected = output_and_gradients(layer, x, autocast=True)
    with fused_updates(nn.ModuleList([layer])):
        found = output_and_gradients(layer, x, autocast=True)
    assert found[0].dtype is torch.bfloat16
    for f, e in zip(found, expected, strict=True):
        assert f.dtype is e.dtype
        assert (f - e).abs().max() <= 2e-2 * e.abs().max()


def test_the_node_casts_the_factors_itself():
    """Under autocast no node of the graph leads to A and B but the one that sums their gradients."""
    layer, x = layer_of(), torch.randn(5, 12)
    with fused_updates(nn.ModuleList([layer])), torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert nodes(y).count("AccumulateGrad") == 2
    assert not any(name.startswith("ToCopy") for name in nodes(y))


def nodes(y):
    """The names of all nodes of the graph that leads to y."""
    names, waiting, seen = [], [y.grad_fn], {None}
    while waiting:
        if (node := waiting.pop()) not in seen:
            seen.add(node)
            names.append(node.name().removeprefix("torch::autograd::"))
            waiting += [following for following, _ in node.next_functions]
    return names


def as_on_a_gpu(linear, x):
    """What `F.linear` does there: with a bias and an x of three axes, a product of rows seen in another shape."""
    if x.ndim == 2:
        return torch.addmm(linear.bias, x, linear.weight.T)
    return torch.addmm(linear.bias, x.reshape(-1, x.shape[-1]), linear.weight.T).view(*x.shape[:-1], -1)


def as_conv1d(linear, x):
    """A product that is a view whatever x is, like that of transformers' Conv1D."""
    return as_on_a_gpu(linear, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (2, 3, 4, 12)])
@pytest.mark.parametrize("product", [as_on_a_gpu, as_conv1d, None])
def test_the_update_is_written_into_no_view(product, shape):
    """Autograd would copy the whole of y several times over: the graph has the nodes of the formula and no others."""
    layer = layer_of(dropout=0.1).train()
    x = torch.randn(shape, requires_grad=True) * 1.0
    expected = layer_of(dropout=0.0).train()(x)
    if product is not None:
        layer.base.forward = MethodType(product, layer.base)
    with fused_updates(nn.ModuleList([layer])):
        y = layer(x)
        layer.dropout.p = 0.0
        assert torch.allclose(layer(x), expected, atol=1e-6)
    names = sorted(name for name in nodes(y) if name not in ("AccumulateGrad", "MulBackward0"))
    assert y.shape == expected.shape
    assert not y._is_view()
    assert not {"CopySlices", "AsStridedBackward0"} & set(names)
    if product is not as_conv1d:  # which needs a copy, and shapes of its own
        assert names == ["AddmmBackward0", "UnsafeViewBackward0", "ViewBackward0", "_AddUpdateBackward"]


def test_a_base_that_gives_its_input_back_is_not_written_to():
    """A view of x is copied before the update is added, so x keeps its numbers."""
    layer = layer_of(12, 12)
    layer.base.forward = lambda x: x
    x = torch.randn(2, 3, 12)
    before = x.clone()
    with fused_updates(nn.ModuleList([layer])):
        y = layer(x)
    assert torch.equal(x, before)
    assert torch.allclose(y, x + x @ layer.delta_weight().T, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 12), (2, 0, 12)])
def test_no_tokens_give_no_outputs(shape):
    """An empty batch keeps its axes, and its gradients are zero."""
    layer, x = layer_of(dropout=0.1).train(), torch.empty(shape, requires_grad=True)
    with fused_updates(nn.ModuleList([layer])):
        y = layer(x)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 7)
    assert not layer.lora_B.grad.any()


def test_a_gpus_mask_has_the_gradients_of_the_layer(monkeypatch):
    """A mask of bool, as torch's own dropout draws it: the output and the gradients of the formula with that mask."""
    masks = []

    def on_a_gpu(x, p):
        masks.append(_native_mask(x, p))
        return masks[-1], 1 - p

    monkeypatch.setattr(fused_lora, "keep_mask", on_a_gpu)
    layer, x = layer_of(dropout=0.25).double().train(), torch.randn(2, 3, 12, dtype=torch.float64)
    with fused_updates(nn.ModuleList([layer])):
        found = output_and_gradients(layer, x)

    def formula(x):
        low = (x * masks[0]) @ layer.lora_A.T
        return layer.base(x) + layer.scaling / 0.75 * low @ layer.lora_B.T

    formula.lora_A, formula.lora_B = layer.lora_A, layer.lora_B
    expected = output_and_gradients(formula, x)
    assert 0 < int(masks[0].sum()) < masks[0].numel()
    assert all(torch.allclose(f, e, atol=1e-13) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("keeps", [True, False])
def test_gradients_agree_with_finite_differences_for_a_given_mask(keeps):
    """The hand-written backward pass, checked by torch in float64, with the mask held."""
    generator = torch.Generator().manual_seed(3)
    y, x, a, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 5), (4, 6), (2, 6), (5, 2)))
    keep = torch.tensor([0, 1, 1, 0, 1, 1] * 4).view(4, 6) if keeps else None
    inputs = [t.requires_grad_() for t in (y, x, a, b)]

    def run(y, x, a, b):
        return _AddUpdate.apply(y * 1.0, x, a, b, keep, 0.7)  # y is written to

    assert torch.autograd.gradcheck(run, inputs)


def test_every_layer_draws_its_own_mask():
    """q, k and v share x, not what is dropped of it: with the same factors their updates differ."""
    layers = nn.ModuleList([layer_of(dropout=0.5) for _ in range(2)]).train()
    x = torch.randn(50, 12)
    with fused_updates(layers):
        first, second = (layer(x) - layer.base(x) for layer in layers)
    assert not torch.allclose(first, second)


def test_dropout_keeps_the_mean_and_has_the_variance_of_the_layers_own():
    """Over 4,000 draws: the mean of the update is the update without dropout, its variance the plain layer's, to 5 %."""
    layer, x = layer_of(dropout=0.3).train(), torch.randn(1, 12).expand(4000, 12)
    plain = layer(x).detach()
    with fused_updates(nn.ModuleList([layer])):
        fused = layer(x).detach()
    without = layer.eval()(x[:1]).detach()[0]
    assert torch.allclose(fused.mean(0), without, atol=4 * float(fused.std(0).max()) / 4000**0.5)
    assert torch.allclose(fused.var(0), plain.var(0), rtol=0.15)


def test_layers_that_read_the_same_x_share_one_copy_of_it():
    """Three layers keep one cast x, one mask each, and nothing else that is as large as x."""
    layers, kept = nn.ModuleList([layer_of(96, 96, dropout=0.1) for _ in range(3)]).train(), []
    x = torch.randn(50, 96, requires_grad=True) * 1.0
    with (
        fused_updates(layers),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        outputs = [layer(x) for layer in layers]
    large = {(t.untyped_storage().data_ptr(), t.dtype) for t in kept if t.shape == x.shape}
    assert sorted(str(dtype) for _, dtype in large) == ["torch.bfloat16", *["torch.int8"] * 3]
    sum(y.float().sum() for y in outputs).backward()
    assert layers[0].lora_A.grad is not None


def test_a_changed_x_is_cast_again():
    """The same tensor with other numbers in it is another input."""
    layer, x = layer_of().eval(), torch.randn(3, 12)
    with fused_updates(nn.ModuleList([layer])), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = layer(x)
        x.mul_(2)
        assert torch.equal(layer(x), layer(x.clone()))
        assert not torch.equal(layer(x), before)


def test_a_switched_off_or_merged_layer_is_what_it_is_without():
    """`enabled = False` is the base, `merged` the folded weight, in every bit."""
    layer, x = layer_of().eval(), torch.randn(3, 12)
    with fused_updates(nn.ModuleList([layer])):
        layer.enabled = False
        assert torch.equal(layer(x), layer.base(x))
        layer.enabled = True
        layer.merge()
        assert torch.equal(layer(x), nn.functional.linear(x, layer.merged_weight, layer.bias))


def test_only_plain_lora_is_fused_and_all_is_undone_after_an_exception():
    """DoRA has another formula; a subclass may have."""
    layers = nn.ModuleList([layer_of(), DoRALinear(nn.Linear(6, 4), rank=2, alpha=3)])
    with suppress(KeyError), fused_updates(layers):
        assert ["forward" in vars(layer) for layer in layers] == [True, False]
        raise KeyError
    assert not any("forward" in vars(layer) for layer in layers)


def test_keep_mask_has_the_exact_probability_and_none_where_nothing_is_dropped():
    """Rounded to 2⁻¹⁶; no mask for dropout 0."""
    x = torch.empty(300, 300)
    keep, probability = keep_mask(x, 0.1)
    assert probability == 1 - round(0.1 * 2**16) / 2**16
    assert float(keep.float().mean()) == pytest.approx(probability, abs=4 * (0.1 * 0.9 / 90_000) ** 0.5)
    assert keep_mask(x, 0.0) == (None, 1.0)


def test_keep_mask_of_another_device_is_torchs_own_on_that_device():
    """The cheap words are a CPU's; elsewhere uniform numbers, drawn where x is, and an exact probability."""
    x = torch.empty(3, 5, device="meta")
    keep, probability = keep_mask(x, 0.25)
    assert (keep.shape, keep.dtype, keep.device.type, probability) == (x.shape, torch.bool, "meta", 0.75)
    assert keep_mask(x, 0.0) == (None, 1.0)


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    """Somebody has put it there."""
    layer = layer_of()
    layer.forward = torch.zeros_like
    with fused_updates(nn.ModuleList([layer])):
        assert layer.forward is torch.zeros_like
    assert layer.forward is torch.zeros_like


def test_x_gets_its_gradient_where_a_is_frozen():
    """As in LoRA-FA; B's is the layer's own too."""
    layer, x = layer_of(), torch.randn(5, 12)
    layer.lora_A.requires_grad_(False)
    found = []
    for is_fused in (False, True):
        leaf = x.clone().requires_grad_()
        with fused_updates(nn.ModuleList([layer] if is_fused else [])):
            found.append(torch.autograd.grad(layer(leaf).square().sum(), [leaf, layer.lora_B]))
    assert all(torch.allclose(f, e, rtol=1e-5, atol=1e-5) for f, e in zip(*found, strict=True))


def test_nothing_is_dropped_in_evaluation():
    """A layer with dropout, in evaluation: the layer's own output, and no random number drawn."""
    layer, x = layer_of(dropout=0.5).eval(), torch.randn(5, 12)
    expected, state = layer(x), torch.get_rng_state()
    with fused_updates(nn.ModuleList([layer])):
        found = layer(x)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state)


def test_inference_mode_under_autocast_is_the_layers_own_to_bfloat16():
    """An inference tensor has no count of writes, so its cast is not kept: it is made each time, without an error."""
    layer = layer_of(96, 64, rank=8).eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(20, 96)
        expected = layer(x)
        with fused_updates(nn.ModuleList([layer])):
            found = layer(x)
            x.zero_()
            assert torch.equal(layer(x)[0], layer.base(x)[0])
    assert found.dtype is torch.bfloat16
    assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()
