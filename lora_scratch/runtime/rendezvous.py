"""Processes find each other, also when torchrun has restarted them.

They meet in a store that torchrun's agent keeps. It outlives them: after a restart it still holds the addresses of dead
processes, and whoever reads one of those first can't connect. So each start gets a part of the store of its own, once the
main process has read out who is there and everyone on that roll has answered.

    here/<rank>              a random name that this process has for as long as it lives
    roll                     all names, as the main process last saw them
    seen/<roll>/<rank>       the process of this number has found its own name on this roll
    start/<roll>             everyone has
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


def fresh_store(store: Any, *, rank: int, size: int, patience_s: float) -> PrefixStore:
    """The part of `store` for the processes of this start.

    Raises:
        WorldError: not all of them have come in time.
    """
    own = uuid.uuid4().hex
    store.set(f"here/{rank}", own)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        roll = _call(store, size) if rank == 0 else _heard(store)
        if own in roll:
            name = hashlib.sha256(json.dumps(roll).encode()).hexdigest()
            store.set(f"seen/{name}/{rank}", "")
            if rank == 0 and all(store.check([f"seen/{name}/{each}"]) for each in range(size)):
                store.set(f"start/{name}", "")
            if store.check([f"start/{name}"]):
                return PrefixStore(name, store)
        time.sleep(PAUSE_S)
    absent = [str(each) for each in range(size) if not store.check([f"here/{each}"])]
    raise WorldError(
        f"waited {patience_s:g} s for the others",
        where=f"process {rank} of {size}",
        remedy=f"no word from process {', '.join(absent)}" if absent else "look at the other machines",
    )


def _call(store: Any, size: int) -> list[str]:
    """The names of all who are there, read out; empty as long as one is missing."""
    if not store.check([f"here/{each}" for each in range(size)]):
        return []
    roll = [store.get(f"here/{each}").decode() for each in range(size)]
    store.set("roll", json.dumps(roll))
    return roll


def _heard(store: Any) -> list[str]:
    """The roll that the main process last read out."""
    roll: list[str] = json.loads(store.get("roll")) if store.check(["roll"]) else []
    return roll
