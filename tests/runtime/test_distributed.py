"""lora_scratch/runtime/distributed.py: processes agree and hear of each other's end; without torchrun, a world of one."""

import re
import signal

import pytest
import torch
import torch.distributed as dist
from support import rank_work
from support.ranks import in_processes

from lora_scratch.errors import ConfigError, WorldError
from lora_scratch.runtime import distributed
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.distributed import check_one_process, local_rank_zero_first, process_group

WORLD = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1", "MASTER_ADDR": "localhost"}


def test_without_torchrun_there_is_a_world_of_one():
    """Every call does nothing: sums stay, the main process's word is one's own."""
    with process_group(), local_rank_zero_first():
        assert rank_work.who() == (0, 1, True)
        assert rank_work.summed((2,)) == [[1.0, 1.0]]
        assert rank_work.told(b"word") == b"word"
        assert rank_work.everyones(b"word") == [b"word"]
        assert rank_work.same(b"anything")
        assert rank_work.agreed({"--rank": 8})
    check_one_process("compare.py")


def test_tensors_of_any_shape_are_summed_over_all_processes():
    """1 + 2 + 3 in each of three processes, in one message for all tensors, scalars too."""
    assert in_processes(rank_work.summed, (2, 2), (), (1,), size=3) == [[[[6.0, 6.0], [6.0, 6.0]], 6.0, [6.0]]] * 3


@pytest.mark.parametrize("content", [b"", b"word", bytes(range(256)) * 300])
def test_every_process_gets_the_main_ones_bytes(content):
    """Whatever the length, and nothing too."""
    assert in_processes(rank_work.told, content) == [content, content]


def test_a_killed_process_is_an_error_in_the_others_at_once():
    """Its connection closes: nobody waits for the time-out, which would say that another process has been silent."""
    waiting, killed = in_processes(rank_work.die, signal.SIGKILL, timeout_s=60)
    assert killed == -signal.SIGKILL
    assert isinstance(waiting, WorldError)
    assert "process 0 of 2: lost another process of the job" in str(waiting)


def test_a_silent_process_is_an_error_in_the_others_after_the_time_out():
    """A process that is stopped keeps its connections: only the clock tells."""
    (waiting,) = in_processes(rank_work.die, signal.SIGSTOP, timeout_s=1, ask=1)
    assert isinstance(waiting, WorldError)
    assert "process 0 of 2: another process has been silent for too long" in str(waiting)
    assert "LORA_SCRATCH_TIMEOUT_S=SECONDS waits longer" in str(waiting)


def test_everyones_bytes_reach_everyone_in_their_order():
    """Of different lengths, and none at all."""
    contents = (b"", b"word", bytes(range(256)))
    assert in_processes(rank_work.everyones, *contents, size=3) == [list(contents)] * 3


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE in the environment: is ''; expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": ""}, "LOCAL_RANK in the environment: is ''"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE in the environment: is '0'; expected a number from 1"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE in the environment: is '9999"),
        ({"WORLD_SIZE": "2", **WORLD, "RANK": "2"}, "RANK in the environment: is 2; expected at most 1"),
        ({"WORLD_SIZE": "2", **WORLD, "MASTER_PORT": "65536"}, "MASTER_PORT in the environment: is 65536; expected at most"),
        ({"WORLD_SIZE": "2", **WORLD, "MASTER_ADDR": ""}, "MASTER_ADDR in the environment: is not there; expected"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE in the environment: is 'two'; expected a number"),
        ({"WORLD_SIZE": "2"}, "RANK in the environment: is 'nothing'; expected a number; start with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_PORT in the environment: is 'nothing'"),
        (
            {"WORLD_SIZE": "2", "LORA_SCRATCH_TIMEOUT_S": "soon", **WORLD},
            "LORA_SCRATCH_TIMEOUT_S in the environment: is 'soon'",
        ),
        ({"WORLD_SIZE": "2", "LORA_SCRATCH_TIMEOUT_S": "0", **WORLD}, "is '0'; expected seconds, above 0"),
        ({"WORLD_SIZE": "2", "LORA_SCRATCH_TIMEOUT_S": "1e300", **WORLD}, "is '1e300'; expected seconds, above 0, at most"),
    ],
    ids=str,
)
def test_an_environment_that_torchrun_did_not_make_is_refused_by_name(monkeypatch, environment, found):
    """Other tools set some of these variables too."""
    for name in WORLD:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(found)), process_group():
        pass


def test_a_slow_process_is_waited_for_as_long_as_it_goes_on():
    """Five seconds behind in all, but never as long as the time-out of four: it is heard after each of its batches. A batch
    is a tenth of the time-out, so a machine with much else to do passes too."""
    assert in_processes(rank_work.slow_rows, batches=12, seconds=0.4, timeout_s=4) == [list(range(24))] * 2


def test_on_gpus_each_process_of_a_machine_takes_its_own_and_tensors_there_go_by_nccl(monkeypatch):
    """As far as a machine without a GPU can tell: what torch is asked for."""
    asked = []
    for name, value in {**WORLD, "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: asked.append(number))
    monkeypatch.setattr(distributed, "rendezvous", lambda *_, **__: iter([("store", 3, 4)]))
    monkeypatch.setattr(distributed, "fresh_store", lambda store, **_: store)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "new_group", lambda *, backend, timeout: asked.append((backend, timeout.total_seconds())))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: asked.append("destroyed"))
    with process_group():
        pass
    assert asked == [1, ("cpu:gloo,cuda:nccl", 25.0), "destroyed"]


def test_work_for_one_process_is_refused_in_several(monkeypatch):
    """A comparison started twice at once would write to one folder twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"compare.py: started as 2 processes; expected one; run it without torchrun"):
        check_one_process("compare.py")


def test_processes_of_a_machine_do_not_share_a_gpu(monkeypatch):
    """More processes than GPUs, or a GPU by number, would put two on one."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(torch.cuda.device_count() + 2))
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ConfigError, match="expected a GPU for each process, or cpu"):
            resolve_device(name)
    assert resolve_device("cpu").type == "cpu"
