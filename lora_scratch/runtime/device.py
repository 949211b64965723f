"""The device and the threads of the computation."""

from __future__ import annotations

import os
import re

import torch

from ..errors import ConfigError

# Of the CPU's allocator, whose errors have no type of their own. The second: a size above 64 bits.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: ",
    "Storage size calculation overflowed",
    "could not create a primitive",  # all that oneDNN says of its own buffers
    "could not execute a primitive",
    "Cannot allocate memory",  # of the system, for a file that is mapped into memory
)


def started_number(name: str, *, default: int | None = None) -> int:
    """Return a whole number that torchrun put into the environment; the default if it is not there.

    A number of processes, whose name ends with SIZE, is at least 1.

    Raises:
        ConfigError: it is no such number, or there is none and no default.
    """
    value = os.environ.get(name, "nothing" if default is None else str(default))
    least = 1 if name.endswith("SIZE") else 0
    if not (re.fullmatch("[0-9]{1,9}", value) and int(value) >= least):
        where, remedy = f"{name} in the environment", "start with torchrun, or unset it and WORLD_SIZE"
        expected = "a number" if least == 0 else "a number from 1"
        raise ConfigError(f"is {value[:60]!r}", where=where, expected=expected, remedy=remedy)
    return int(value)


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` is CUDA if there is a GPU, else the CPU.

    If torchrun started several processes, `cuda` is another GPU in each (runtime/distributed.py).

    Raises:
        ConfigError: this machine has no such device, or processes would have to share it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    processes = started_number("LOCAL_WORLD_SIZE", default=1)
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


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether the error, or one that it was raised from, says that a device has no memory left."""
    while error is not None:
        texts = any(message in str(error) for message in OUT_OF_MEMORY)
        if texts or isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        error = error.__cause__
    return False
