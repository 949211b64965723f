"""The processes that torchrun started, or a single process.

    torchrun --nproc_per_node 2 -m lora_scratch train    2 processes of one machine
    lora-scratch train                                  1; the functions below then do nothing

Sums over the processes are sums over rows, so the result does not depend on which process had which
row. All processes must call the functions in the same order: each call waits for the others, and
raises WorldError if one of them is gone.
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
from .device import started_number
from .rendezvous import fresh_store

# A killed process closes its connections, and the others know at once. If a process hangs or its
# machine loses power, the others wait for this time.
TIMEOUT_S = 25
LONGEST_TIMEOUT_S = 10**6  # twelve days
LAST_PORT = 65535
START_TIMEOUT_S = 1800  # at the start and between jobs: one process may download what all will read

_working_group: dist.ProcessGroup | None = None  # all processes, with TIMEOUT_S


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that torchrun started: by gloo on CPUs, by NCCL between GPUs.

    LORA_SCRATCH_TIMEOUT_S in the environment replaces TIMEOUT_S. Inside another process group, do
    nothing.

    Raises:
        ConfigError: an environment that torchrun did not make.
        WorldError: the processes can't reach each other.
    """
    global _working_group
    if processes_started() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():  # `cuda` is this GPU from now on
        torch.cuda.set_device(started_number("LOCAL_RANK") % torch.cuda.device_count())
    _check_environment()
    timeout, start = timedelta(seconds=_timeout_s()), timedelta(seconds=START_TIMEOUT_S)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _lost_process_is_an_error():
        store, number, size = next(rendezvous("env://", timeout=start))
        store = fresh_store(store, rank=number, size=size, timeout_s=START_TIMEOUT_S)
        dist.init_process_group("gloo", store=store, rank=number, world_size=size, timeout=start)
    try:
        with _lost_process_is_an_error():
            _working_group = dist.new_group(backend=backend, timeout=timeout)
        yield
    finally:
        _working_group = None
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this is the process that writes and prints."""
    return rank() == 0


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in one message. All get the same bits.

    Args:
        tensors: float32, on one device; the same shapes in every process."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    with _lost_process_is_an_error():
        dist.all_reduce(flat, group=_working_group)
    sums = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, sums, strict=True):
        tensor.detach().copy_(total.view_as(tensor))


def broadcast(content: bytes) -> bytes:
    """Return the main process's `content` in every process."""
    if world_size() == 1:
        return content
    length = torch.tensor(len(content))
    with _lost_process_is_an_error():
        dist.broadcast(length, src=0)
        buffer = _as_tensor(content if is_main() else bytes(int(length)))
        dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()


def gather(content: bytes) -> list[bytes]:
    """Return the `content` of every process, by rank, in every process."""
    if world_size() == 1:
        return [content]
    lengths = [torch.tensor(0) for _ in range(world_size())]
    with _lost_process_is_an_error():
        dist.all_gather(lengths, torch.tensor(len(content)))
        longest = int(max(lengths))
        buffers = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        dist.all_gather(buffers, _as_tensor(content.ljust(longest, b"\0")))
    pairs = zip(buffers, lengths, strict=True)
    return [buffer.numpy().tobytes()[: int(length)] for buffer, length in pairs]


def barrier() -> None:
    """Wait for the others. Call it after every part of long work, or a process seems to hang."""
    sum_over_processes([torch.zeros(1)])  # NCCL's barrier would wait for the GPU too


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the block in the first process of a machine, then in its others, which find it cached."""
    first = started_number("LOCAL_RANK", default=0) == 0
    if not first:
        _wait_for_all()
    yield
    if first:
        _wait_for_all()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this process holds only a part of the tensor (FSDP2's DTensor)."""
    return hasattr(tensor, "to_local")


def working_group() -> dist.ProcessGroup | None:
    """Return the group of all processes, for torch's own functions; None for a single process."""
    return _working_group


def processes_started() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return started_number("WORLD_SIZE", default=1)


def check_one_process(command: str) -> None:
    """Check that torchrun did not start several processes for a command that needs one.

    Raises:
        ConfigError: it did.
    """
    if (count := processes_started()) > 1:
        problem, remedy = f"started as {count} processes", "run it without torchrun"
        raise ConfigError(problem, where=command, expected="one", remedy=remedy)


def _check_environment() -> None:
    """Check what torch's rendezvous reads: it raises errors without a type of their own, or waits for half an hour."""
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        started_number(name)
    bounds = {"RANK": processes_started() - 1, "MASTER_PORT": LAST_PORT}
    for name, most in bounds.items():
        if (number := started_number(name)) > most:
            raise ConfigError(f"is {number}", where=f"{name} in the environment", expected=f"at most {most}")
    if not os.environ.get("MASTER_ADDR"):
        where = "MASTER_ADDR in the environment"
        raise ConfigError("is not there", where=where, expected="the main machine", remedy="start with torchrun")


def _timeout_s() -> float:
    value = os.environ.get("LORA_SCRATCH_TIMEOUT_S", str(TIMEOUT_S))
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        where, expected = "LORA_SCRATCH_TIMEOUT_S in the environment", f"seconds, above 0, at most {LONGEST_TIMEOUT_S}"
        raise ConfigError(f"is {value[:60]!r}", where=where, expected=expected)
    return seconds


def _wait_for_all() -> None:
    if world_size() > 1:
        with _lost_process_is_an_error():
            dist.barrier()


def _as_tensor(content: bytes) -> Tensor:
    """Shape: (n,) uint8."""
    if not content:  # torch.frombuffer refuses an empty buffer
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


@contextmanager
def _lost_process_is_an_error() -> Iterator[None]:
    try:
        yield
    except WorldError:
        raise
    except RuntimeError as error:  # gloo has no type of its own
        reason = str(error).strip().splitlines()[0]
        problem = "lost another process of the job"
        remedy = "look for the first error above, or on the other machines"
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            problem = "another process has been silent for too long"
            remedy += "; LORA_SCRATCH_TIMEOUT_S=SECONDS waits longer"
        where = f"process {os.environ.get('RANK', rank())} of {processes_started()}"
        raise WorldError(f"{problem} ({reason})", where=where, remedy=remedy) from error
