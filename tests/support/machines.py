"""What a CPU and its torch can say of themselves. One machine plays several, so that each of them is tested on all.

Where oneDNN has matrix registers (AMX), its float32 products round to bfloat16 once the switch of fast/onednn.py is set.
A machine that plays AMX rounds in the same place, so a test sees whether the product takes that route.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora_scratch.fast import onednn
from lora_scratch.fast.onednn import can_be_packed


@dataclass(frozen=True)
class Machine:
    """Answers of a CPU and its torch.

    Args:
        amx: it has matrix registers.
        avx512_bf16: it multiplies bfloat16 in its vector registers.
        bf16_products: oneDNN multiplies bfloat16 there, fast or not.
        packing: torch has the operators that pack a weight.
        onednn: torch was built with oneDNN.
        faster: oneDNN's float32 products are faster than MKL's.
    """

    amx: bool = False
    avx512_bf16: bool = True
    bf16_products: bool = True
    packing: bool = True
    onednn: bool = True
    faster: bool = True

    @property
    def float32_goes_through_onednn(self) -> bool:
        """Where it is exact and faster."""
        return self.onednn and self.faster and not self.amx

    @property
    def packs_bfloat16(self) -> bool:
        """Where oneDNN multiplies it, and torch can pack."""
        return self.onednn and self.packing and self.bf16_products


MACHINES = {
    "AMX": Machine(amx=True),
    "AVX-512 with bfloat16": Machine(),
    "AVX-512": Machine(avx512_bf16=False),
    "AVX2": Machine(avx512_bf16=False, bf16_products=False),
    "slow oneDNN": Machine(faster=False),
    "no packing": Machine(packing=False),
    "no oneDNN": Machine(onednn=False),
}
REAL = Machine(
    amx=torch.cpu._is_amx_tile_supported(),
    bf16_products=can_be_packed(torch.empty(2, 2), torch.bfloat16),
    packing=can_be_packed(torch.empty(2, 2), torch.float32),
    onednn=torch._C._has_mkldnn and onednn._has_switch(),
)


def why_not(machine: Machine, dtype: torch.dtype) -> str:
    """Why this machine can't multiply in `dtype` as `machine` would; empty if it can."""
    if machine.onednn and not REAL.onednn:
        return "this torch has no oneDNN, or no switch for it"
    if dtype is torch.bfloat16:
        return "this CPU packs no bfloat16" if machine.packs_bfloat16 and not REAL.packs_bfloat16 else ""
    if machine.float32_goes_through_onednn and REAL.amx:
        return "this CPU has AMX: oneDNN would round float32 to bfloat16"
    if machine.float32_goes_through_onednn and machine.packing and not REAL.packing:
        return "this torch packs no weights"
    return ""


@contextmanager
def playing(machine: Machine, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside, products in `dtype` take the route of `machine`, and every model is large enough for oneDNN; skips if that
    can't be."""
    if reason := why_not(machine, dtype):
        pytest.skip(reason)
    with answering(machine), RoundedProducts() if machine.amx else nullcontext():
        yield


@contextmanager
def answering(machine: Machine) -> Iterator[None]:
    """Inside, torch says what `machine` would say. Nothing needs to be multiplied as `machine` would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: machine.amx)
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: machine.avx512_bf16)
        patch.setattr(torch._C, "_has_mkldnn", machine.onednn)
        patch.setattr(torch.ops, "mkldnn", _operators(machine))
        for name, value in {"_choice": [], "LARGE": 0, "TOKENS": 8}.items():
            patch.setattr(onednn, name, value)
        patch.setattr(onednn, "_gain", lambda *_: math.inf if machine.faster else 0.0)
        onednn.is_exact.cache_clear()
        try:
            yield
        finally:
            onednn.is_exact.cache_clear()


def _operators(machine: Machine) -> SimpleNamespace:
    names = ("_linear_pointwise", "_reorder_linear_weight") if machine.packing else ()
    packing = {name: getattr(torch.ops.mkldnn, name, None) for name in names}
    return SimpleNamespace(_is_mkldnn_bf16_supported=lambda: machine.bf16_products, **packing)


class RoundedProducts(TorchDispatchMode):
    """Inside, float32 products round what they multiply to bfloat16 while the switch is set, as oneDNN does with AMX."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Round the inputs of a product."""
        name = func.overloadpacket.__name__
        if name in self.PRODUCTS and torch.backends.mkldnn.matmul.fp32_precision == "bf16":  # type: ignore[attr-defined]
            args = [_rounded(arg) for arg in args]
        return func(*args, **(kwargs or {}))


def _rounded(value: Any) -> Any:
    plain = isinstance(value, torch.Tensor) and value.dtype is torch.float32 and not value.is_mkldnn
    return value.bfloat16().float() if plain else value
