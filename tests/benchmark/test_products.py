"""lora_scratch/benchmark/products.py: the matrix products of a step, noted and repeated alone."""

import pytest
import torch

from lora_scratch.benchmark.products import Operand, ProductRecorder


def recorded(function, *, training=True):
    with ProductRecorder(torch.nn.Identity().train(training)) as recorder:
        function()
    return recorder.products


def test_every_product_of_forward_and_backward_is_counted():
    """Two linear layers of one shape: two products forward, two for the weights and one for the activations between."""
    x, first, second = torch.randn(5, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    products = recorded(lambda: second(first(x)).sum().backward())
    assert sum(products.values()) == 5
    assert sum(count * product.flops for product, count in products.items()) == 5 * 2 * 5 * 4 * 4


def test_a_batched_product_has_the_operations_of_all_its_matrices():
    """2 · batch · rows · inner · columns, whatever is added to it."""
    a, b, c = torch.randn(7, 2, 3), torch.randn(7, 3, 5), torch.randn(7, 2, 5)
    (product,) = recorded(lambda: torch.baddbmm(c, a, b, alpha=0.5))
    assert product.flops == 2 * 7 * 2 * 3 * 5
    assert dict(product.options)["alpha"] == 0.5
    assert 0 < product.seconds(2) < 10


def test_what_evaluation_multiplies_is_no_part_of_training():
    """Nothing is noted while the model is in evaluation mode."""
    assert not recorded(lambda: torch.randn(2, 3) @ torch.randn(3, 2), training=False)


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[::2, 1:], lambda x: x[:1].expand(6, 4)])
def test_an_operand_is_repeated_in_its_layout(view):
    """Transposed weights, slices and broadcast rows keep their strides: libraries treat them differently."""
    tensor = view(torch.randn(6, 4, dtype=torch.float32).bfloat16())
    filled = Operand(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device).fill()
    assert (filled.shape, filled.stride(), filled.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert filled.isfinite().all()
