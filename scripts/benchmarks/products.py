"""The matrix products of a training step on their own: the floor under its time.

The products are those that our fast path really does, with its real token counts: they are noted down as they are
dispatched, and each is then repeated alone on random numbers of the same shapes, strides and dtype. What the step takes
beyond them is everything else: norms, activations, dropout, copies, the optimizer, dispatch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lora_scratch.commands.benchmarks.contenders import CONTENDERS
from lora_scratch.commands.benchmarks.rounds import OURS
from lora_scratch.commands.benchmarks.watch import Clock, Timing
from lora_scratch.commands.benchmarks.work import Work
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lora_scratch.fast.packed_product import pack_weight

# The operators that multiply matrices, and which of their arguments is the left one.
PRODUCTS = {
    torch.ops.aten.mm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.addmm_: 1,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.baddbmm: 1,
    **({torch.ops.mkldnn._linear_pointwise: 0} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}),
}
REPEATS = 5
LAUNCHES = 20  # of a product in a graph that is timed: enough that the launch of the graph itself does not count


@dataclass(frozen=True)
class Operand:
    """A tensor without its numbers; with no strides, a weight that was packed for oneDNN."""

    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    dtype: torch.dtype
    device: torch.device

    def fill(self) -> Tensor:
        """Random numbers in this layout."""
        if self.stride is None:
            return pack_weight(torch.randn(self.shape).to(self.dtype))
        places = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(max(places, 1), device=self.device).to(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """A matrix product as it was dispatched."""

    function: Any
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]
    flops: int

    def seconds(self, repeats: int = REPEATS) -> float:
        """The fastest of some repetitions, after one that is not timed."""
        arguments = [each.fill() if isinstance(each, Operand) else each for each in self.arguments]
        multiply = partial(self.function, *arguments, **dict(self.options))
        multiply()
        timed = _on_device(multiply) if arguments[0].device.type == "cuda" else partial(_seconds_of, multiply)
        return min(timed() for _ in range(repeats))


class ProductRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products that are dispatched while `model` is in training mode and `clock` runs, by shape."""

    def __init__(self, model: torch.nn.Module, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.clock = model, clock
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.model.training and self.clock.runs and func.overloadpacket in PRODUCTS:
            self._note(func, args, kwargs or {}, columns=result.shape[-1])
        return result

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, columns: int) -> None:
        """Multiplications and additions of a product: 2 · rows · inner · columns."""
        flops = 2 * args[PRODUCTS[func.overloadpacket]].numel() * columns
        operands = tuple(tuple(each) if isinstance(each, list) else _operand(each) for each in args)
        self.products[Product(func, operands, tuple(sorted(kwargs.items())), flops)] += 1


def measure_floor(name: str, work: Work) -> dict[str, Any]:
    """Seconds of the bare products of the steps that are timed of contender `name`, and tokens a second at that.

    The steps of ours are launched by hand: the loop replays recorded graphs on a GPU, which dispatch no product.
    """
    model, rows = CONTENDERS[name].build(work), work.timed_rows
    clock = Timing(work.steps, 0, lambda: 0, warm=work.warm_steps)
    by_hand = {"by_hand": True} if name.startswith(OURS) else {}
    with ProductRecorder(model, clock) as recorder:
        CONTENDERS[name].train(model, work, rows, clock, **by_hand)
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


def _seconds_of(multiply: Callable[[], object]) -> float:
    start = time.perf_counter()
    multiply()
    return time.perf_counter() - start


def _on_device(multiply: Callable[[], object]) -> Callable[[], float]:
    """What measures the product on the GPU's own clock: a kernel may be shorter than its launch by the host.

    The products are repeated as one recorded graph, whose single launch is shared by LAUNCHES of them.
    """
    graph = torch.cuda.CUDAGraph()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            multiply()

    def timed() -> float:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / LAUNCHES  # from milliseconds

    return timed


def _operand(value: Any) -> Any:
    if isinstance(value, Tensor):
        stride = None if value.is_mkldnn else value.stride()
        return Operand(tuple(value.shape), stride, value.dtype, value.device)
    return value
