"""scripts/benchmarks/products.py: the matrix products of a step, noted and repeated alone."""

from contextlib import nullcontext

import pytest
import torch

from lora_scratch.commands.benchmarks import products
from lora_scratch.commands.benchmarks.products import Operand, ProductRecorder
from lora_scratch.commands.benchmarks.watch import Clock
from lora_scratch.fast import frozen_weights
from lora_scratch.fast.frozen_weights import PackedLinear

needs_packing = pytest.mark.skipif(
    not frozen_weights.can_be_packed(torch.empty(2, 2), torch.bfloat16), reason="this CPU or torch packs nothing in bfloat16"
)


def recorded(function, *, training=True, clock=None):
    with ProductRecorder(torch.nn.Identity().train(training), clock or Clock()) as recorder:
        function()
    return recorder.products


def test_every_product_of_forward_and_backward_is_counted():
    """Two linear layers of one shape: two products forward, two for the weights and one for the activations between."""
    x, first, second = torch.randn(5, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    products = recorded(lambda: second(first(x)).sum().backward())
    assert sum(products.values()) == 5
    assert sum(count * product.flops for product, count in products.items()) == 5 * 2 * 5 * 4 * 4


@pytest.mark.parametrize("multiply", [torch.baddbmm, torch.Tensor.baddbmm_])
def test_a_batched_product_has_the_operations_of_all_its_matrices(multiply):
    """2 · batch · rows · inner · columns, whatever is added to it, in place too."""
    a, b, c = torch.randn(7, 2, 3), torch.randn(7, 3, 5), torch.randn(7, 2, 5)
    (product,) = recorded(lambda: multiply(c, a, b, alpha=0.5))
    assert product.flops == 2 * 7 * 2 * 3 * 5
    assert dict(product.options)["alpha"] == 0.5
    assert 0 < product.seconds(2) < 10


def test_what_evaluation_multiplies_is_no_part_of_training():
    """Nothing is noted while the model is in evaluation mode."""
    assert not recorded(lambda: torch.randn(2, 3) @ torch.randn(3, 2), training=False)


def test_what_warm_steps_multiply_is_no_part_of_the_floor_or_of_the_time():
    """Nothing is noted, and no second counted, before the clock runs: time and floor are of the same steps."""
    clock = Clock(warm=2)

    def three_steps():
        for rows in (2, 3, 4):
            torch.randn(rows, 3) @ torch.randn(3, 2)
            clock.step(None, seconds=rows / 8, tokens=rows)

    (product,) = recorded(three_steps, clock=clock)
    assert product.flops == 2 * 4 * 3 * 2
    assert (clock.steps, clock.seconds, clock.tokens) == (1, 0.5, 4)


@needs_packing
def test_a_product_with_a_packed_weight_is_counted_and_repeated_packed():
    """As many operations as without packing, forward and backward; the weight is packed again for the repetition."""
    linear = torch.nn.Linear(24, 40).requires_grad_(requires_grad=False)
    x = torch.randn(70, 24, requires_grad=True)  # more than frozen_weights.FEW_ROWS
    products = recorded(lambda: PackedLinear([linear], torch.bfloat16)(x).float().sum().backward())
    assert [product.flops for product in products] == [2 * 70 * 24 * 40] * 2
    weights = [product.arguments[1].fill() for product in products]
    assert [tuple(weight.shape) for weight in weights] == [(40, 24), (24, 40)]
    assert all(weight.is_mkldnn for weight in weights)
    assert all(0 < product.seconds(2) < 10 for product in products)


@needs_packing
def test_products_in_order_have_every_weight_in_memory_of_its_own(monkeypatch):
    """Two layers of one shape are two weights, each used twice; the inputs share one tensor."""
    first, second = (torch.nn.Linear(24, 24).requires_grad_(requires_grad=False) for _ in range(2))
    layers, x, filled = [PackedLinear([linear], torch.bfloat16) for linear in (first, second)], torch.randn(70, 24), []
    fill = Operand.fill
    monkeypatch.setattr(Operand, "fill", lambda operand: filled.append(operand) or fill(operand))
    with ProductRecorder(torch.nn.Identity(), Clock()) as recorder:
        for layer in layers * 2:
            layer(x.bfloat16())
    assert [product.flops for product, _ in recorder.order] == [2 * 70 * 24 * 24] * 4
    assert 0 < products.seconds_in_order(recorder.order, 2) < 10
    assert sorted(operand.shape for operand in filled) == [(24,), (24, 24), (24, 24), (70, 24)]


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[::2, 1:], lambda x: x[:1].expand(6, 4)])
def test_an_operand_is_repeated_in_its_layout(view):
    """Transposed weights, slices and broadcast rows keep their strides: libraries treat them differently."""
    tensor = view(torch.randn(6, 4, dtype=torch.float32).bfloat16())
    filled = Operand(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device).fill()
    assert (filled.shape, filled.stride(), filled.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert filled.isfinite().all()


def test_a_product_on_a_gpu_is_timed_by_its_own_clock_and_without_its_launch(monkeypatch):
    """LAUNCHES of it in one recorded graph: the seconds of a replay between two events, shared among them."""
    calls, clock = [], [0.0]

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock[0]

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at  # milliseconds

    class Graph:
        def replay(self):
            clock[0] += 4.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    timed = products._on_device(lambda: calls.append(1))
    assert timed() == pytest.approx(4e-3 / products.LAUNCHES)
    assert len(calls) == products.LAUNCHES  # while it was recorded: a replay is no call
