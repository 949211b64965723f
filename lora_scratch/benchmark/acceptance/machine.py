"""What the figures depend on besides the code."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ...errors import ConfigError
from ...evaluation import versions

PEERS = ("peft", "accelerate")


def choose_device(name: str) -> torch.device:
    """`cuda` where there is a GPU and `name` is not `cpu`, else `cpu`.

    The GPU is not touched: the process that starts the parts must hold none of its memory, nor the GPU itself where only
    one process may use it.

    Raises:
        ConfigError: `cuda` where there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no GPU here", where="--device cuda", expected="a GPU that torch sees", remedy="use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions, system, cores and, in a process that uses it, the GPU."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "versions": {**versions(), **_peer_versions()},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": None if gpu is None else f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
    }


def _peer_versions() -> dict[str, str]:
    found = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine_in_words(machine: dict[str, Any]) -> str:
    """One line of it."""
    names = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{machine['gpu'] or 'no GPU'}; {machine['cores']} CPUs ({machine['cpu']}); {names}"
