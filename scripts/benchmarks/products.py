"""Measures the matrix products of a training step alone: no step can be faster.

The products are those of our fast path, with its real token counts. They are noted as they are
dispatched. Each is then repeated alone on random numbers of the same shapes, strides and dtype, so
that its weight stays in the cache. On a CPU they are also repeated in the order of the steps, each
weight in memory of its own: there it is cold, as in training. That is the floor to judge by. The
rest of a step is norms, activations, dropout, copies, the optimizer and dispatch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lora_scratch.fast.onednn import pack_weight

from .contenders import CONTENDERS
from .rounds import OURS
from .watch import Clock, Timing
from .work import Work

# The operators that multiply matrices, and which of their arguments is the left one.
PRODUCTS = {
    torch.ops.aten.mm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.addmm_: 1,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.baddbmm: 1,
    torch.ops.aten.baddbmm_: 1,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    PRODUCTS[torch.ops.mkldnn._linear_pointwise] = 0
REPEATS = 5
LAUNCHES = 20  # of a product in a timed graph: enough that the launch of the graph does not count


@dataclass(frozen=True)
class Operand:
    """A tensor without its numbers. Without strides it is a weight that was packed for oneDNN."""

    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    dtype: torch.dtype
    device: torch.device

    def fill(self) -> Tensor:
        """Return random numbers in this layout."""
        if self.stride is None:
            return pack_weight(torch.randn(self.shape).to(self.dtype))
        steps = zip(self.shape, self.stride, strict=True)
        places = 1 + sum((size - 1) * step for size, step in steps)
        numbers = torch.randn(max(places, 1), device=self.device).to(self.dtype)
        return numbers.as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """A matrix product as it was dispatched."""

    function: Any
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]
    flops: int

    def seconds(self, repeats: int = REPEATS) -> float:
        """Return the seconds of the fastest of some repetitions, after one that is not timed."""
        arguments = [part.fill() if isinstance(part, Operand) else part for part in self.arguments]
        multiply = self.on(arguments)
        multiply()
        timed = _on_device(multiply) if self.on_gpu else partial(_seconds_of, multiply)
        return min(timed() for _ in range(repeats))

    def on(self, arguments: Sequence[Any]) -> Callable[[], object]:
        """Return a function that multiplies these tensors."""
        return partial(self.function, *arguments, **dict(self.options))

    @property
    def on_gpu(self) -> bool:
        """Whether the tensors were on a GPU."""
        return any(isinstance(part, Operand) and part.device.type == "cuda" for part in self.arguments)


class ProductRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by shape the matrix products of `model` in training mode while `clock` runs."""

    def __init__(self, model: torch.nn.Module, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.clock = model, clock
        self.products: Counter[Product] = Counter()
        self.order: list[tuple[Product, tuple[int, ...]]] = []  # with the identities of the arguments

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.model.training and self.clock.runs and func.overloadpacket in PRODUCTS:
            self._note(func, args, kwargs or {}, columns=result.shape[-1])
        return result

    def _note(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        columns: int,
    ) -> None:
        """Count a product: it multiplies and adds 2 · rows · inner · columns times."""
        flops = 2 * args[PRODUCTS[func.overloadpacket]].numel() * columns
        operands = tuple(tuple(arg) if isinstance(arg, list) else _operand(arg) for arg in args)
        product = Product(func, operands, tuple(sorted(kwargs.items())), flops)
        self.products[product] += 1
        self.order.append((product, tuple(map(id, args))))


def measure_floor(name: str, work: Work) -> dict[str, Any]:
    """Return the seconds of the products of a contender's timed steps, and tokens a second.

    Our steps are launched by hand: on a GPU the loop replays recorded graphs, which dispatch no
    product.
    """
    model, rows = CONTENDERS[name].build(work), work.timed_rows
    clock = Timing(work.steps, 0, lambda: 0, warm=work.warm_steps)
    by_hand = {"by_hand": True} if name.startswith(OURS) else {}
    with ProductRecorder(model, clock) as recorder:
        CONTENDERS[name].train(model, work, rows, clock, **by_hand)
    seconds = sum(count * product.seconds() for product, count in recorder.products.items())
    cold = None if any(product.on_gpu for product in recorder.products) else seconds_in_order(recorder.order)
    flops = sum(count * product.flops for product, count in recorder.products.items())
    return {
        "seconds": seconds,
        "tokens": clock.tokens,
        "tokens_per_second": clock.tokens / seconds,
        "cold_seconds": cold,
        "cold_tokens_per_second": None if cold is None else clock.tokens / cold,
        "products": sum(recorder.products.values()),
        "gigaflops_per_second": flops / seconds / 1e9,
        "megaflops_per_token": flops / clock.tokens / 1e6,
    }


def seconds_in_order(order: Sequence[tuple[Product, tuple[int, ...]]], repeats: int = REPEATS) -> float:
    """Return the seconds of the fastest of some passes over these products, after one that is not timed.

    Every packed weight has memory of its own. Other tensors share one for each layout, as in a step, which frees
    and takes again the memory of its activations.
    """
    tensors: dict[tuple[Operand, int], Tensor] = {}

    def tensor(part: Any, identity: int) -> Any:
        if not isinstance(part, Operand):
            return part
        key = (part, identity if part.stride is None else 0)
        if key not in tensors:
            tensors[key] = part.fill()
        return tensors[key]

    calls = [product.on([tensor(*pair) for pair in zip(product.arguments, ids, strict=True)]) for product, ids in order]

    def pass_over() -> None:
        for call in calls:
            call()

    pass_over()
    return min(_seconds_of(pass_over) for _ in range(repeats))


def _seconds_of(multiply: Callable[[], object]) -> float:
    start = time.perf_counter()
    multiply()
    return time.perf_counter() - start


def _on_device(multiply: Callable[[], object]) -> Callable[[], float]:
    """Return a function that times the product on the GPU's own clock.

    A kernel may be shorter than its launch by the host. So LAUNCHES of them are recorded as one
    graph, which is launched once.
    """
    graph = torch.cuda.CUDAGraph()
    start, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
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
