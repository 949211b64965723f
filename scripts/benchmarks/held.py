"""How much memory a training holds above its model, on a CPU or on a GPU.

On a GPU this is what the allocator has reserved: blocks that recorded graphs keep count there, and what was allocated in
them does not. The peak of a process on a CPU is its resident set.
"""

from __future__ import annotations

import gc

import torch

from lora_scratch.runtime.memory import peak_bytes, resident_bytes, restart_peak


class HeldMemory:
    """Counts from the moment it is made: `model` is on `device` then, and nothing else of the training is there.

    Args:
        model: it is moved to the device, since contenders would do so themselves later and be charged for it.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        self.model_bytes = _reserve(model, device) if device.type == "cuda" else _read_through(model)
        restart_peak()

    def peak(self) -> int:
        """The most memory held so far, the model included."""
        return peak_of(self.device)

    def now(self) -> int:
        """The memory held now, the model included."""
        return int(torch.cuda.memory_reserved(self.device)) if self.device.type == "cuda" else resident_bytes()

    def above_model(self, held: int) -> int:
        """What was held without the model."""
        return held - self.model_bytes


def peak_of(device: torch.device) -> int:
    """The most memory held so far, of the process on a CPU and of the allocator on a GPU."""
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else peak_bytes()


def _reserve(model: torch.nn.Module, device: torch.device) -> int:
    """Memory reserved for the model alone, and the peak counted from here."""
    model.to(device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_reserved(device))


def _read_through(model: torch.nn.Module) -> int:
    """Memory held once every weight has been read: a file that is mapped into memory counts only from then on."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return resident_bytes()
