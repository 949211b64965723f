"""The device and the threads of the computation."""

from __future__ import annotations

import os

import torch

from ..errors import ConfigError

# Of the CPU's allocator, whose errors have no type of their own. The second: a size above 64 bits.
OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "Storage size calculation overflowed")


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` is CUDA if there is a GPU, else the CPU.

    If torchrun started several processes, `cuda` is another GPU in each (runtime/distributed.py).

    Raises:
        ConfigError: this machine has no such device, or processes would have to share it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1 and name.split(":")[0] == "cuda":
        gpus = torch.cuda.device_count()
        if name != "cuda" or gpus < processes:
            problem = f"{name} for {processes} processes on a machine with {gpus} GPUs"
            raise ConfigError(problem, where="--device", expected="a GPU for each process, or cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda"):  # a model on `meta` holds no numbers
            raise RuntimeError(f"device type {device.type}")
    except (RuntimeError, AssertionError, ValueError) as error:
        problem, expected = f"no device {name!r} here", "auto, cpu or cuda"
        raise ConfigError(problem, where="--device", expected=expected) from error
    return device


def use_device(device: torch.device) -> None:
    """Make a GPU the current one, for streams and kernels that name none. Do nothing for a CPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def use_threads(count: int) -> None:
    """Use `count` CPU threads in this process; 0 leaves torch's own choice."""
    if count:
        torch.set_num_threads(count)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(message in str(error) for message in OUT_OF_MEMORY)
