"""Many processes as one: those that torchrun started, or a world of one.

    torchrun --nproc_per_node 2 scripts/train.py        2 processes of one machine
    python scripts/train.py                             1; nothing here does anything then

What is summed over the processes is a sum over rows, so that it does not matter which process had which row. All processes
go through the same calls of this file in the same order: each of them waits for the others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError, WorldError

# A process that was killed closes its connections, and the others know at once. One that hangs, or whose machine lost its
# power, says nothing: this is how long the others wait for it in the middle of the work.
TIMEOUT_S = 25
PATIENCE_S = 1800  # before and between: one process may have to download or build what the others will read

_working_group: dist.ProcessGroup | None = None  # all processes, with little patience; the default group has more


@contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other: by gloo on CPUs, by NCCL between GPUs.

    `LORA_SCRATCH_TIMEOUT_S` in the environment says how long they wait for one that has fallen silent (25 s by default).

    Raises:
        WorldError: they can't reach each other.
    """
    global _working_group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())  # what `cuda` means from now on
    timeout = timedelta(seconds=float(os.environ.get("LORA_SCRATCH_TIMEOUT_S", TIMEOUT_S)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _lost_process_is_an_error():
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE_S))
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


def from_main(content: bytes) -> bytes:
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


def check_same(what: str, content: bytes) -> None:
    """All processes must hold the same `content`, else they would work on different things and put it together.

    Raises:
        ConfigError: naming the processes that hold something else than the main one. WorldError: a process has gone.
    """
    if world_size() == 1:
        return
    _check_same_digest(what, hashlib.sha256(content).digest())


def check_same_tensors(what: str, tensors: Mapping[str, Tensor]) -> None:
    """`check_same` for tensors by name; of a sharded one nothing is compared, since each process holds another part.

    Raises:
        As `check_same`.
    """
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not is_sharded(tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    _check_same_digest(what, digest.digest())


def _check_same_digest(what: str, digest: bytes) -> None:
    own = _as_tensor(digest)
    digests = [torch.empty_like(own) for _ in range(world_size())]
    with _lost_process_is_an_error():
        dist.all_gather(digests, own)
    others = [str(number) for number, digest in enumerate(digests) if not torch.equal(digest, digests[0])]
    if others:
        raise ConfigError(
            f"not the same in process {', '.join(others)} as in process 0",
            where=what,
            remedy="start all processes with the same files, flags and versions",
        )


@contextmanager
def first_of_machine_first() -> Iterator[None]:
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


def check_one_process(what: str) -> None:
    """For work that several processes would only do several times.

    Raises:
        ConfigError: torchrun started more than one.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(f"started as {processes} processes", where=what, expected="one", remedy="run it without torchrun")


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
    except RuntimeError as error:  # gloo has no type of its own
        raise WorldError(
            f"lost another process of the job ({str(error).strip().splitlines()[0]})",
            where=f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}",
            remedy="look for the first error above, or on the other machines",
        ) from error
