"""Which device the work runs on."""

from __future__ import annotations

import os

import torch

from ..errors import ConfigError


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is a GPU, else the CPU; any other name is torch's own for one (`cpu`, `cuda:1`).

    Where torchrun started several processes on this machine, `cuda` is another GPU in each (runtime/distributed.py).

    Raises:
        ConfigError: the name is no device of this machine, or processes would have to share it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1 and (name.startswith("cuda:") or (name == "cuda" and torch.cuda.device_count() < processes)):
        raise ConfigError(
            f"{name} for {processes} processes on a machine with {torch.cuda.device_count()} GPUs",
            where="--device",
            expected="a GPU for each process, or cpu",
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda"):  # a model on `meta` holds no numbers
            raise RuntimeError(f"device type {device.type}")
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"no device {name!r} here", where="--device", expected="auto, cpu or cuda") from error
    return device


def use_device(device: torch.device) -> None:
    """Make this GPU the current one, for streams and kernels that name none. On a CPU, do nothing."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def use_threads(count: int) -> None:
    """Use `count` CPU threads in this process; 0 leaves torch's own choice."""
    if count:
        torch.set_num_threads(count)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a device that has no memory left. The CPU's allocator has no error of its own, only a message."""
    messages = ("DefaultCPUAllocator: ", "Storage size calculation overflowed")  # the second: more bytes than 64 bits count
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(each in str(error) for each in messages)
