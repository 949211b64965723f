"""lora_scratch/runtime/rendezvous.py: each start of the processes gets a part of the store of its own."""

import threading

import pytest
from torch.distributed import HashStore

from lora_scratch.errors import WorldError
from lora_scratch.runtime.rendezvous import fresh_store


def start(store, ranks, *, size):
    """These processes come, all at once; what each finds in its part of the store under a key that all write to."""
    found = {}

    def come(rank):
        part = fresh_store(store, rank=rank, size=size, timeout_s=20)
        part.set(f"address/{rank}", "here")
        part.wait([f"address/{each}" for each in range(size)])
        found[rank] = part

    threads = [threading.Thread(target=come, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_processes_of_one_start_share_a_part_and_those_of_the_next_have_another():
    """Nothing that a dead process wrote is there after a restart."""
    store = HashStore()
    first = start(store, range(3), size=3)
    first[0].set("address of the dead", "gone")
    assert all(part.check(["address of the dead"]) for part in first.values())
    second = start(store, range(3), size=3)
    assert not any(part.check(["address of the dead"]) for part in second.values())


@pytest.mark.parametrize("late", [0, 1])
def test_a_name_of_a_dead_process_is_not_taken_for_its_successor(late):
    """After a restart one process is late: the others wait for it, though they find the name of the dead one."""
    store = HashStore()
    start(store, range(2), size=2)
    early, found = 1 - late, []
    thread = threading.Thread(target=lambda: found.append(fresh_store(store, rank=early, size=2, timeout_s=20)))
    thread.start()
    thread.join(timeout=0.3)
    assert not found
    fresh_store(store, rank=late, size=2, timeout_s=20)
    thread.join()
    assert len(found) == 1


def test_processes_that_do_not_come_are_named():
    """Of three, one is missing."""
    store = HashStore()
    store.set("name/1", "a name")
    with pytest.raises(WorldError, match=r"process 0 of 3: waited 0.1 s for the others; process 2 did not answer"):
        fresh_store(store, rank=0, size=3, timeout_s=0.1)
