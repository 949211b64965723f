"""Mixed precision by hand, with the same code for CUDA and CPU.

    with precision.autocast():
        loss = ...
    scaler.scale(loss).backward()       # the last micro-batch is followed by
    scaler.unscale_(optimizer)          # unscale, clip, step, update, zero: always in this order
    clip_grad_norm_(parameters, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()

Only float16 needs the scaler: its smallest normal number is 6e-5, and smaller gradients vanish.
bfloat16 has the range of float32. A disabled GradScaler does not change the loss.

Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # oneDNN uses no later instructions
AVX = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
ISAS_WITHOUT_BFLOAT16 = frozenset(AVX)


@dataclass(frozen=True)
class Precision:
    """The compute dtype on a device. Trainable tensors are always float32."""

    dtype: torch.dtype
    device: torch.device

    @property
    def name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    def autocast(self) -> Any:
        """Return a context in which matrix products run in `dtype`; it does nothing for float32."""
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a new GradScaler, enabled only for float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision called `name`.

    `auto` is bf16 on CUDA (fp16 before Ampere) and on CPUs with the instructions for it, else fp32.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "auto":
        return Precision(_fast_dtype(device), device)
    if name not in DTYPES:
        problem, expected = f"unknown precision {name!r}", f"auto, {', '.join(DTYPES)}"
        raise ConfigError(problem, where="--precision", expected=expected)
    return Precision(DTYPES[name], device)


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    return torch.bfloat16 if _cpu_multiplies_bfloat16_fast() else torch.float32


def _cpu_multiplies_bfloat16_fast() -> bool:
    """Whether oneDNN uses bfloat16 instructions; without them, float32 is three times as fast."""
    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has_instructions and multiplies_bfloat16() and _isa_limits().isdisjoint(ISAS_WITHOUT_BFLOAT16)


def uses_matrix_registers(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies `dtype` in matrix registers (AMX) on this CPU, as the environment lets it."""
    allowed = all("AMX" in limit or limit in ("", "ALL", "DEFAULT") for limit in _isa_limits())
    return dtype is torch.bfloat16 and torch.cpu._is_amx_tile_supported() and allowed


def _isa_limits() -> set[str]:
    return {os.environ.get(name, "").upper() for name in ISA_LIMITS}


def multiplies_bfloat16() -> bool:
    """Return whether oneDNN multiplies bfloat16 on this CPU, fast or not."""
    has_operator = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    return bool(has_operator and torch.ops.mkldnn._is_mkldnn_bf16_supported())
