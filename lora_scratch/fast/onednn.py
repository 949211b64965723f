"""How torch uses oneDNN: for float32 products where a test finds it as exact and faster; with small caches.

torch sends float32 products on a CPU to MKL, which is slow on some. The switch to oneDNN is one setting of torch for the
whole process, `fp32_precision = "bf16"`. Without matrix registers (AMX) oneDNN still multiplies in float32 then; with them
it would round to bfloat16, so there it stays off.

Worth: 1.16 of a float32 training step in the shape of DistilBERT on a CPU where the products alone gain 1.07 to 1.4.

oneDNN compiles a kernel for every shape of a product and keeps the last 1,024, and torch as many beside, a third of a MiB
each. Batches without padding have other shapes every time, so the caches fill with what is not asked for again. Worth of
smaller ones: after 60 steps MiniLM's process has grown by 400 MiB in place of 900, and then it stays there.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.distributed import broadcast, is_main
from .packed_product import can_be_packed, multiply, pack_weight

TOKENS, WIDTH, INNER = 512, 768, 3072  # the largest product of DistilBERT
LARGE = 2**20  # entries of a weight; the gain of smaller ones is within the noise of the test
ROUNDS, GAIN = 5, 1.1
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's own, and torch's beside it
KERNELS = 64  # a training step has about 40 shapes, the few that come back in every step among them
EXACT = 1e-5  # of the largest output; float32 in any order of summation is off by 1e-6, bfloat16 by 1e-2


def limit_kernel_cache(count: int = KERNELS) -> None:
    """Bound the caches of compiled kernels, unless the environment does. Before the first product, which reads it."""
    for name in CACHES:
        os.environ.setdefault(name, str(count))


@contextmanager
def through_onednn() -> Iterator[None]:
    """Inside, float32 products go to oneDNN; afterwards to whatever they went to before."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def serves(model: nn.Module) -> bool:
    """Whether a linear layer of `model` is large enough for the choice to matter, and oneDNN is faster."""
    is_large = any(isinstance(module, nn.Linear) and module.weight.numel() >= LARGE for module in model.modules())
    return is_large and onednn_is_faster()


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 exactly here, and at least 1.1 times as fast: half a second, once a process.

    Where there are several processes the main one measures, and all take its word: they compute shares of one thing.

    Near 1.1 two measurements may disagree, and the last bits of the products with them: a run that goes on from a checkpoint
    keeps to what it found at first (`finding`, `keep_to`).

    Only the speed is taken from elsewhere. The main process or the checkpoint may come from a machine with another CPU, so
    every process tests for itself whether oneDNN is exact.
    """
    if not _found:
        _found.append(broadcast(bytes([is_main() and _measure()])) == b"\1")
    return _found[0] and is_exact()


@cache
def is_exact() -> bool:
    """Whether oneDNN multiplies float32 in float32 here: not where the CPU has AMX, and elsewhere by a test."""
    if not torch._C._has_mkldnn or not _has_switch() or torch.cpu._is_amx_tile_supported():
        return False
    return _error(*_largest_product()) <= EXACT


def finding() -> bool | None:
    """What this process has found or was told; None if nobody has asked."""
    return _found[0] if _found else None


def keep_to(found: bool | None) -> None:
    """Take `found` for the result of the test."""
    _found[:] = [] if found is None else [found]


_found: list[bool] = []


def _measure() -> bool:
    return is_exact() and _gain(*_largest_product()) >= GAIN


def _has_switch() -> bool:
    return hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")


def _largest_product() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(TOKENS, WIDTH, generator=generator), torch.randn(INNER, WIDTH, generator=generator)


@torch.no_grad()
def _error(x: Tensor, weight: Tensor) -> float:
    """Of oneDNN's product, against float64's, relative to the largest output."""
    exact = x.double() @ weight.double().T
    with through_onednn():
        return float((_product(x, weight)() - exact).abs().max() / exact.abs().max())


@torch.no_grad()
def _gain(x: Tensor, weight: Tensor) -> float:
    """MKL's shortest time over oneDNN's, for the product of a forward pass and that of the backward pass behind it."""
    y = F.linear(x, weight)
    ways: dict[str, tuple[Callable[[], Tensor], ...]] = {
        "mkl": (partial(F.linear, x, weight), partial(torch.matmul, y, weight)),
        "onednn": (_product(x, weight), _product(y, weight.T.contiguous())),
    }
    best = dict.fromkeys(ways, math.inf)
    for _ in range(ROUNDS):
        for library, products in ways.items():
            with through_onednn() if library == "onednn" else nullcontext():
                start = time.perf_counter()
                for product in products:
                    product()
                best[library] = min(best[library], time.perf_counter() - start)
    return best["mkl"] / best["onednn"]


def _product(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """x Wᵀ as it is multiplied where oneDNN is chosen: with W packed, if it can be (fast/frozen_weights.py).

    Not packed, oneDNN was 1.07 to 1.27 times as fast as MKL where it is 1.4 to 1.6 times, and one test in six said no.
    """
    if can_be_packed(weight, weight.dtype):
        return partial(multiply, x, pack_weight(weight), None)
    return partial(F.linear, x, weight)
