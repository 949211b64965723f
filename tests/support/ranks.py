"""A function in several processes that know each other, as torchrun would start them, without its start-up time.

The processes are forked from a server that has imported everything once (from this process they can't be: it may have used
a GPU or autograd's threads). The port is that of a store which this
process holds already, so that two runs of the tests never meet.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from functools import cache, partial
from multiprocessing import connection, forkserver, get_context
from typing import Any
from unittest import mock

from support.pictures import quick_pictures
from torch.distributed import TCPStore

from lora_scratch.errors import LoraScratchError
from lora_scratch.runtime.distributed import process_group

WITHIN_S = 150  # the work takes a second, but the first time the server has all its imports to do
LATE = ["sklearn.metrics", "matplotlib.backends.backend_svg", "jinja2"]  # else each process would import them, for 1.3 s
FORKS = get_context("forkserver")


@cache
def start_server() -> None:
    """Once for all tests."""
    FORKS.set_forkserver_preload(["support.rank_work", *LATE])
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def in_processes(
    function: Callable[..., Any],
    *arguments: Any,
    size: int = 2,
    timeout_s: float = 25,
    ask: int | None = None,
    **options: Any,
) -> list[Any]:
    """What `function` returned in each process, or the project's error that it raised there, or how the process ended.

    Args:
        function: one of rank_work.py.
        timeout_s: how long the processes wait for each other.
        ask: only the first so many processes for their results; the others are killed.
    """
    start_server()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "LORA_SCRATCH_TIMEOUT_S": str(timeout_s)}
    ends = []
    for rank in range(size):
        ours, theirs = FORKS.Pipe(duplex=False)
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = FORKS.Process(
            target=_run, args=(environment, theirs, partial(function, *arguments, **options)), daemon=True
        )
        process.start()
        theirs.close()
        ends.append((process, ours))
    try:
        return [_result(ours, process) for process, ours in ends[:ask]]
    finally:
        for process, _ in ends:
            process.kill()
            process.join()


def _result(ours: connection.Connection, process: Any) -> Any:
    if not ours.poll(WITHIN_S):
        raise TimeoutError(f"more than {WITHIN_S} s")
    try:
        kind, value = pickle.loads(ours.recv_bytes())  # noqa: S301
    except EOFError:
        process.join()
        return process.exitcode
    if kind == "defect":
        raise AssertionError(value)
    return value


def _run(environment: dict[str, str], out: Any, function: Callable[[], Any]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(environment)
    try:
        with quick_pictures(), process_group():
            _send(out, "result", function())
    except LoraScratchError as error:
        _send(out, "error", error.__class__(str(error)) if error.__class__ is not LoraScratchError else error)
    except Exception:
        _send(out, "defect", traceback.format_exc())


def _send(out: Any, kind: str, value: Any) -> None:
    """By value: torch would leave its tensors here to be fetched, and this process may have ended by then."""
    out.send_bytes(pickle.dumps((kind, value)))
