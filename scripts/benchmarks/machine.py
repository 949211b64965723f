"""Describes what the figures depend on besides the code: versions, system, CPU and GPU."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lora_scratch.evaluation import versions

PEERS = ("peft", "accelerate")


def cpu_kind() -> str:
    """Return the instructions that multiply matrices: AMX, AVX-512 bf16, AVX-512, AVX2, ..."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return "AVX-512 bf16"
    return torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")


def gpu_kind(device: torch.device) -> str | None:
    """Return the name and the memory of the GPU; None for a CPU."""
    if device.type != "cuda":
        return None
    gpu = torch.cuda.get_device_properties(device)
    return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def machine_kind(device: torch.device) -> str:
    """Return the kind of machine in a few words, for the head of a table."""
    return gpu_kind(device) or cpu_kind()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return versions, system, cores, threads, the kind of CPU and, if `device` is one, the GPU."""
    return {
        "versions": {**versions(), **{name: _version(name) for name in PEERS}},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": cpu_kind(),
        "gpu": gpu_kind(device),
    }


def machine_in_words(machine: dict[str, Any]) -> str:
    """Return what `describe_machine` found as one line."""
    names = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cpu = f"{machine['cores']} CPUs ({machine['cpu']}), {machine['threads']} threads"
    return f"{machine['gpu'] or 'no GPU'}; {cpu}; {names}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
