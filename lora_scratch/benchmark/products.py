"""The matrix products of a training step on their own: the floor under its time.

The products are those that our fast path really does, with its real token counts: they are noted down as they are
dispatched, and each is then repeated alone on random numbers of the same shapes, strides and dtype. What the step takes
beyond them is everything else: norms, activations, dropout, copies, the optimizer, dispatch.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .contenders import CONTENDERS
from .watch import Clock
from .work import Work

PRODUCTS = {
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.addbmm,
    torch.ops.aten.mv,
    torch.ops.aten.addmv,
}
REPEATS = 5


@dataclass(frozen=True)
class Operand:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def fill(self) -> Tensor:
        """Random numbers in this layout."""
        places = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(max(places, 1), device=self.device).to(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """A matrix product as it was dispatched."""

    function: Any
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def flops(self) -> int:
        """Multiplications and additions: 2 · rows · inner · columns."""
        left, right = [each.shape for each in self.arguments if isinstance(each, Operand)][-2:]
        return 2 * torch.Size(left).numel() * (right[-1] if len(right) > 1 else 1)

    def seconds(self, repeats: int = REPEATS) -> float:
        """The fastest of some repetitions, after one that is not timed."""
        arguments = [each.fill() if isinstance(each, Operand) else each for each in self.arguments]
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            self.function(*arguments, **dict(self.options))
            if arguments[0].device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])


class ProductRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products that are dispatched while `model` is in training mode, by shape."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.model.training and func.overloadpacket in PRODUCTS:
            operands = tuple(_operand(each) for each in args)
            self.products[Product(func, operands, tuple(sorted((kwargs or {}).items())))] += 1
        return func(*args, **(kwargs or {}))


def measure_floor(name: str, work: Work) -> dict[str, Any]:
    """Seconds of the bare products of an epoch of `work.steps` batches of contender `name`, and tokens a second at that."""
    work = replace(work, training=replace(work.training, epochs=1))
    model, clock, rows = CONTENDERS[name].build(work), Clock(), work.timed_rows
    with ProductRecorder(model) as recorder:
        CONTENDERS[name].train(model, work, rows, clock)
    seconds = sum(count * product.seconds() for product, count in recorder.products.items())
    flops = sum(count * product.flops for product, count in recorder.products.items())
    return {
        "seconds": seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / seconds,
        "products": sum(recorder.products.values()),
        "gigaflops_per_second": flops / seconds / 1e9,
        "megaflops_per_token": flops / clock.tokens / 1e6,
    }


def _operand(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Operand(tuple(value.shape), value.stride(), value.dtype, value.device)
    return value
