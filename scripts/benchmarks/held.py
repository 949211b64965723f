"""Measures how much memory a training holds above its model, on a CPU or on a GPU."""

from __future__ import annotations

import gc

import torch

from lora_scratch.runtime.memory import peak_bytes, resident_bytes, restart_peak


class HeldMemory:
    """Memory above the model, counted from the moment this object is made.

    Nothing else of the training may be on `device` by then.

    Args:
        model: it is moved to the device, so that a contender's own move is not counted.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        _load(model, device)
        self.model_bytes = resident_bytes(device)
        restart_peak(device)

    def peak(self) -> int:
        """Return the most memory held so far, the model included."""
        return peak_bytes(self.device)

    def now(self) -> int:
        """Return the memory held now, the model included."""
        return resident_bytes(self.device)

    def above_model(self, held_bytes: int) -> int:
        """Return `held_bytes` without the model's."""
        return held_bytes - self.model_bytes


def _load(model: torch.nn.Module, device: torch.device) -> None:
    """Make the model's memory count. On a CPU a mapped file counts only once it has been read."""
    if device.type == "cuda":
        model.to(device)
        gc.collect()
        torch.cuda.empty_cache()
        return
    for parameter in model.parameters():
        parameter.detach().sum()
