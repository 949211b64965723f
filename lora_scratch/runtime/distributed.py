"""Many processes as one: those that torchrun started, or a world of one.

    torchrun --nproc_per_node 2 -m lora_scratch train    2 processes of one machine
    lora-scratch train                                  1; nothing here does anything then

What is summed over the processes is a sum over rows, so that it does not matter which process had which row. All processes
go through the same calls of this file in the same order: each of them waits for the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ..errors import ConfigError, WorldError
from .rendezvous import fresh_store

# A process that was killed closes its connections, and the others know at once. One that hangs, or whose machine lost its
# power, says nothing: this is how long the others wait for it in the middle of the work.
TIMEOUT_S = 25
PATIENCE_S = 1800  # before and between: one process may have to download or build what the others will read

_working_group: dist.ProcessGroup | None = None  # all processes, with little patience; the default group has more


@contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other: by gloo on CPUs, by NCCL between GPUs.

    `LORA_SCRATCH_TIMEOUT_S` in the environment says how long they wait for one that has fallen silent (25 s by default).
    In a process group of the caller's own, and inside this one, nothing more happens.

    Raises:
        ConfigError: an environment that torchrun did not make. WorldError: they can't reach each other.
    """
    global _working_group
    if processes_started() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(_number("LOCAL_RANK") % torch.cuda.device_count())  # what `cuda` means from now on
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        _number(name)
    timeout = timedelta(seconds=_patience_s())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _lost_process_is_an_error():
        patience = timedelta(seconds=PATIENCE_S)
        store, number, size = next(rendezvous("env://", timeout=patience))
        store = fresh_store(store, rank=number, size=size, patience_s=PATIENCE_S)
        dist.init_process_group("gloo", store=store, rank=number, world_size=size, timeout=patience)
    try:
        with _lost_process_is_an_error():
            _working_group = dist.new_group(backend=backend, timeout=timeout)
        yield
    finally:
        _working_group = None
        dist.destroy_process_group()


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Every tensor becomes the sum of what the processes hold of it, in place, in one message, with the same bits in each.

    Args:
        tensors: float32, on one device; the same number of the same shapes in every process.

    Raises:
        WorldError: a process has gone.
    """
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    with _lost_process_is_an_error():
        dist.all_reduce(flat, group=_working_group)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def broadcast(content: bytes) -> bytes:
    """The main process's `content`, whatever the others pass.

    Raises:
        WorldError: a process has gone.
    """
    if world_size() == 1:
        return content
    length = torch.tensor(len(content))
    with _lost_process_is_an_error():
        dist.broadcast(length, src=0)
        buffer = _as_tensor(content if is_main() else bytes(int(length)))
        dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()


def gathered(content: bytes) -> list[bytes]:
    """What every process passes, in the order of their numbers, in every process.

    Raises:
        WorldError: a process has gone.
    """
    if world_size() == 1:
        return [content]
    lengths = [torch.tensor(0) for _ in range(world_size())]
    with _lost_process_is_an_error():
        dist.all_gather(lengths, torch.tensor(len(content)))
        longest = int(max(lengths))
        buffers = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        dist.all_gather(buffers, _as_tensor(content.ljust(longest, b"\0")))
    return [buffer.numpy().tobytes()[: int(length)] for buffer, length in zip(buffers, lengths, strict=True)]


def barrier() -> None:
    """Wait for the others. Who goes through here after every piece of long work is never silent for long.

    Raises:
        WorldError: a process has gone.
    """
    sum_over_processes([torch.zeros(1)])  # a barrier of NCCL's would wait for the GPU too


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """The first process of a machine goes through the block, then its others: they find in the cache what it put there."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        _wait_for_all()
    yield
    if first:
        _wait_for_all()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of the tensor: FSDP2's DTensor, whose class takes a second to import."""
    return hasattr(tensor, "to_local")


def working_group() -> dist.ProcessGroup | None:
    """All processes, for calls of torch's own; None in a world of one."""
    return _working_group


def processes_started() -> int:
    """How many processes torchrun started; 1 without it."""
    return _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1


def check_one_process(what: str) -> None:
    """For work that several processes would only do several times.

    Raises:
        ConfigError: torchrun started more than one.
    """
    processes = processes_started()
    if processes > 1:
        raise ConfigError(f"started as {processes} processes", where=what, expected="one", remedy="run it without torchrun")


def _number(name: str) -> int:
    """A whole number that torchrun put into the environment."""
    value = os.environ.get(name, "nothing")
    if not value.isdecimal():
        raise ConfigError(
            f"is {value}",
            where=f"{name} in the environment",
            expected="a number",
            remedy="start with torchrun, or unset WORLD_SIZE",
        )
    return int(value)


def _patience_s() -> float:
    value = os.environ.get("LORA_SCRATCH_TIMEOUT_S", str(TIMEOUT_S))
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"is {value}", where="LORA_SCRATCH_TIMEOUT_S in the environment", expected="seconds, above 0")
    return seconds


def _wait_for_all() -> None:
    if world_size() > 1:
        with _lost_process_is_an_error():
            dist.barrier()


def _as_tensor(content: bytes) -> Tensor:
    """Shape: (n,) uint8; torch refuses to look into an empty buffer."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


@contextmanager
def _lost_process_is_an_error() -> Iterator[None]:
    try:
        yield
    except WorldError:
        raise
    except RuntimeError as error:  # gloo has no type of its own
        first_line = str(error).strip().splitlines()[0]
        silent = "timed out" in first_line.lower() or "timeout" in first_line.lower()
        raise WorldError(
            f"another process has been silent for too long ({first_line})"
            if silent
            else f"lost another process of the job ({first_line})",
            where=f"process {os.environ.get('RANK', rank())} of {processes_started()}",
            remedy="look for the first error above, or on the other machines"
            + ("; LORA_SCRATCH_TIMEOUT_S=SECONDS waits longer" if silent else ""),
        ) from error
