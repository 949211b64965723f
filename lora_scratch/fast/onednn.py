"""Products with oneDNN: float32 where it is exact and faster, packed weights, small kernel caches.

torch sends float32 products on a CPU to MKL, which is slow on some. One setting of the process,
`fp32_precision = "bf16"`, sends them to oneDNN. It still multiplies in float32 then, except on CPUs
with matrix registers (AMX), where the setting stays off. Worth: a float32 training step of
DistilBERT is 1.16 times as fast, on a CPU where the products alone gain 1.07 to 1.4.

oneDNN compiles a kernel for every shape of a product and keeps the last 1,024, and torch as many, a
third of a MiB each. Batches without padding have new shapes every time, so the caches fill up.
Worth of small caches: MiniLM's process grows by 400 MiB instead of 900 in 60 steps, then no more.

So a batch of bfloat16 is filled up to a multiple of 32 tokens. Its kernels come back more often. And
its tensors have few sizes, so that they fit into the blocks that earlier ones have freed. Otherwise
free blocks that fit nothing add up: 17,000 of them, 455 MiB, after 200 steps of MiniLM, and every
allocation searches them. Worth: from the 50th step on MiniLM is 1.1 times as fast, and its process
takes 1,060 MiB instead of 1,310. DistilBERT stays as fast as it was, within 1 %.

On CPUs with matrix registers a kernel takes 2 to 12 ms to compile, and a MiB of memory. So there the
multiple is 64, and more kernels are kept. And oneDNN leaves some products to one of two threads:
their rows are cut. Worth: a bfloat16 training step of DistilBERT is 1.1 to 1.2 times as fast,
MiniLM's 1.05.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.distributed import broadcast, is_main
from ..runtime.precision import multiplies_bfloat16, uses_matrix_registers

TOKENS, WIDTH, INNER = 512, 768, 3072  # the largest product of DistilBERT
LARGE = 2**20  # entries of a weight; the gain of smaller ones is within the noise of the test
ROUNDS, GAIN = 5, 1.1
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's, and torch's
KERNELS = 64  # a training step has about 40 shapes, and a few of them come back in every step
KERNELS_OF_MATRICES = 128  # with matrix registers most shapes come back; a kernel takes a MiB there
MULTIPLE, MULTIPLE_OF_MATRICES = 32, 64
# The products that oneDNN 3.12 leaves to one of two threads: timed with 32 to 4,096 rows, for the
# weights of models that are 256 to 1,024 wide.
LONE_ROWS, LONE_INPUTS, LONE_OUTPUTS = range(449, 1281), 768, range(512, 769)
PIECE_ROWS = 320
EXACT = 1e-5  # of the largest output; float32 sums are off by 1e-6 in any order, bfloat16 by 1e-2

_choice: list[bool] = []  # empty until it is measured or set


def rows_multiple(dtype: torch.dtype) -> int:
    """Return the multiple to which a packed batch is filled up before its products in `dtype`.

    Filled up, batches have few token counts, so a kernel is used again, and freed memory is too. A
    kernel for matrix registers (AMX) takes 2 to 12 ms to compile, longer than its product.
    """
    if uses_matrix_registers(dtype):
        return MULTIPLE_OF_MATRICES
    return MULTIPLE if dtype is torch.bfloat16 else 1


def limit_kernel_cache(count: int | None = None) -> None:
    """Bound the caches of kernels, unless the environment does. The first product reads this."""
    most = KERNELS_OF_MATRICES if uses_matrix_registers(torch.bfloat16) else KERNELS
    for name in CACHES:
        os.environ.setdefault(name, str(count or most))


@contextmanager
def through_onednn() -> Iterator[None]:
    """Send float32 products to oneDNN inside."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def helps(model: nn.Module) -> bool:
    """Return whether a linear layer of `model` is large enough to matter, and oneDNN is faster."""
    linears = (module for module in model.modules() if isinstance(module, nn.Linear))
    return any(linear.weight.numel() >= LARGE for linear in linears) and onednn_is_faster()


def onednn_is_faster() -> bool:
    """Return whether oneDNN multiplies float32 exactly here, and at least GAIN times as fast.

    The first call measures for half a second. The main process measures for all. Two measurements
    may disagree, and so the last bits of products: a resumed run repeats the choice of its
    checkpoint. That may come from another CPU, so every process tests whether oneDNN is exact.
    """
    if not _choice:
        _choice.append(broadcast(bytes([is_main() and _measure()])) == b"\1")
    return _choice[0] and is_exact()


@cache
def is_exact() -> bool:
    """Return whether oneDNN multiplies float32 in float32: not with AMX, else by a test."""
    if not torch._C._has_mkldnn or not _has_switch() or torch.cpu._is_amx_tile_supported():
        return False
    return _error(*_largest_product()) <= EXACT


def choice() -> bool | None:
    """Return what was measured or set; None if nothing was."""
    return _choice[0] if _choice else None


def set_choice(is_faster: bool | None) -> None:
    """Use this instead of a measurement; None to measure again."""
    _choice[:] = [] if is_faster is None else [is_faster]


def pack_weight(weight: Tensor) -> Tensor:
    """Return W in the layout of oneDNN's kernels, which only `multiply` can read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b, with W packed. Shape: x (..., in) -> (..., out)."""
    rows = x.flatten(0, -2)
    size = _rows_at_once(rows, out_features=packed.shape[0])
    pieces = torch.split(rows, size) if size else [rows]
    products = [torch.ops.mkldnn._linear_pointwise(piece, packed, bias, "none", [], "") for piece in pieces]
    y: Tensor = torch.cat(products) if size else products[0]
    # for autograd not a view: fast/fused_lora.py adds into it
    return y if x.ndim == 2 else torch.ops.aten._unsafe_view(y, [*x.shape[:-1], -1])


def _rows_at_once(x: Tensor, *, out_features: int) -> int | None:
    """Return how many rows of x (N, in) go into one product; None for all.

    With two threads and matrix registers, oneDNN computes some shapes on one thread alone. Pieces
    are shared. Worth, 640 rows: 1.6 times for 3,072 to 768, 1.2 for 768 to 768.
    """
    on_one_thread = len(x) in LONE_ROWS and x.shape[1] >= LONE_INPUTS and out_features in LONE_OUTPUTS
    if not on_one_thread or not uses_matrix_registers(x.dtype) or torch.get_num_threads() != 2:
        return None
    count = math.ceil(len(x) / PIECE_ROWS)
    return math.ceil(len(x) / count / MULTIPLE_OF_MATRICES) * MULTIPLE_OF_MATRICES


def can_be_packed(weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies in `dtype` here, and torch has its private operators."""
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    has_operators = all(hasattr(torch.ops.mkldnn, name) for name in operators)
    if weight.device.type != "cpu" or not torch._C._has_mkldnn or not has_operators:
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and multiplies_bfloat16())


def _measure() -> bool:
    return is_exact() and _gain(*_largest_product()) >= GAIN


def _has_switch() -> bool:
    return hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")


def _largest_product() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(TOKENS, WIDTH, generator=rng), torch.randn(INNER, WIDTH, generator=rng)


@torch.no_grad()
def _error(x: Tensor, weight: Tensor) -> float:
    """Return the error of oneDNN's product against float64, relative to the largest output."""
    exact = x.double() @ weight.double().T
    with through_onednn():
        return float((_product(x, weight)() - exact).abs().max() / exact.abs().max())


@torch.no_grad()
def _gain(x: Tensor, weight: Tensor) -> float:
    """Return MKL's shortest time over oneDNN's, for a forward product and its backward product."""
    y = F.linear(x, weight)
    with_mkl = (partial(F.linear, x, weight), partial(torch.matmul, y, weight))
    with_onednn = (_product(x, weight), _product(y, weight.T.contiguous()))
    mkl_s = onednn_s = math.inf
    for _ in range(ROUNDS):
        mkl_s = min(mkl_s, _seconds(*with_mkl))
        with through_onednn():
            onednn_s = min(onednn_s, _seconds(*with_onednn))
    return mkl_s / onednn_s


def _seconds(*products: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    for product in products:
        product()
    return time.perf_counter() - start


def _product(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """Return x Wᵀ as fast/frozen_weights.py computes it, with W packed if possible.

    Packed it is 1.4 to 1.6 times as fast as MKL. Unpacked it was 1.07 to 1.27 times as fast, and
    one test in six failed.
    """
    if can_be_packed(weight, weight.dtype):
        return partial(multiply, x, pack_weight(weight), None)
    return partial(F.linear, x, weight)
