"""Connect the processes of one start, also after torchrun has restarted them.

They use a store that torchrun's agent keeps. After a restart it still has the addresses of dead
processes, and nobody can connect to those. So every start gets its own part of the store: the main
process lists all processes, and the part is used when every process has found itself in the list.

    name/<rank>              a random name, new in every process
    list                     all names, as the main process last saw them
    seen/<list>/<rank>       this process has found its name in the list
    start/<list>             all processes have
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Any

from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from ..errors import WorldError

PAUSE_S = 0.05


def fresh_store(store: Any, *, rank: int, size: int, timeout_s: float) -> PrefixStore:
    """Return the part of `store` for the processes of this start.

    Raises:
        WorldError: a process did not come in time.
    """
    own = uuid.uuid4().hex
    store.set(f"name/{rank}", own)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        names = _list_names(store, size) if rank == 0 else _read_names(store)
        if own in names:
            digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
            store.set(f"seen/{digest}/{rank}", "")
            if rank == 0 and all(store.check([f"seen/{digest}/{other}"]) for other in range(size)):
                store.set(f"start/{digest}", "")
            if store.check([f"start/{digest}"]):
                return PrefixStore(digest, store)
        time.sleep(PAUSE_S)
    absent = [str(other) for other in range(size) if not store.check([f"name/{other}"])]
    problem = f"waited {timeout_s:g} s for the others"
    remedy = f"process {', '.join(absent)} did not answer" if absent else "look at the other machines"
    raise WorldError(problem, where=f"process {rank} of {size}", remedy=remedy)


def _list_names(store: Any, size: int) -> list[str]:
    """Write the list of all names and return it; empty if one is missing."""
    keys = [f"name/{rank}" for rank in range(size)]
    if not store.check(keys):
        return []
    names = [store.get(key).decode() for key in keys]
    store.set("list", json.dumps(names))
    return names


def _read_names(store: Any) -> list[str]:
    names: list[str] = json.loads(store.get("list")) if store.check(["list"]) else []
    return names
