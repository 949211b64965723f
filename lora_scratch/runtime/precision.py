"""Manual mixed precision: one dtype, one autocast, one GradScaler, the same code for CUDA and CPU.

    with precision.autocast():
        loss = ...
    scaler.scale(loss).backward()       # the last micro-batch is followed by
    scaler.unscale_(optimizer)          # unscale, clip, step, update, zero: always in this order
    clip_grad_norm_(parameters, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()

Only float16 needs the scaler: its smallest normal number is 6e-5, and gradients below that would vanish. bfloat16 has
float32's range. A disabled GradScaler hands the loss through untouched, so there is one path for all.

Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740, section 3.2 (loss scaling).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # oneDNN keeps to these instructions; the CPU may have more
ISAS_WITHOUT_BFLOAT16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})


@dataclass(frozen=True)
class Precision:
    """The compute dtype on a device. Trainable tensors stay float32 whatever it is."""

    dtype: torch.dtype
    device: torch.device

    @property
    def name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    def autocast(self) -> Any:
        """A context in which matrix products run in `dtype`; it does nothing in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """A fresh GradScaler, enabled for float16 alone."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """`auto` is what the device does well: CUDA bf16 (fp16 before Ampere), a CPU bf16 if it has the instructions, else fp32.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "auto":
        return Precision(_fast_dtype(device), device)
    if name not in DTYPES:
        raise ConfigError(f"unknown precision {name!r}", where="--precision", expected=f"auto, {', '.join(DTYPES)}")
    return Precision(DTYPES[name], device)


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_multiplies_bfloat16_fast() else torch.float32


def _cpu_multiplies_bfloat16_fast() -> bool:
    """The CPU has the instructions, and oneDNN uses them: without, bfloat16 takes three times as long as float32."""
    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    limits = {os.environ.get(name, "").upper() for name in ISA_LIMITS}
    return has_instructions and multiplies_bfloat16() and limits.isdisjoint(ISAS_WITHOUT_BFLOAT16)


def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this CPU, be it in float32 after all: from AVX-512 on, or avx_ne_convert."""
    has_operator = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    return bool(has_operator and torch.ops.mkldnn._is_mkldnn_bf16_supported())
