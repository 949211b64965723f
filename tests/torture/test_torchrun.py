"""torchrun itself on the demo: one process, two, two machines of one; processes and machines that are killed.

    pytest -m torture tests/torture/test_torchrun.py -s        the figures

A machine is an agent with its workers, on loopback. tests/scripts/test_torchrun.py is the sample in the ordinary suite.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.agents import free_port

ROOT = Path(__file__).parents[2]
WITHIN_S = 30
DEMO = ["--model", "demo", "--dataset", "demo", "--precision", "fp32", "--threads", 1, "--max_tokens", 128]
SHORT = [*DEMO, "--limit_train", 3200, "--epochs", 1, "--dropout", 0]

pytestmark = pytest.mark.torture


@contextmanager
def started(script, *arguments, nodes=1, processes=1, max_restarts=0):
    """The agents of a job, killed with their workers at the end."""
    place = ["--master_addr", "127.0.0.1", "--master_port", free_port(), "--max_restarts", max_restarts]
    shape = ["--nnodes", nodes, "--nproc_per_node", processes, "--monitor_interval", 0.1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    agents = []
    for node in range(nodes):
        command = ["-m", "torch.distributed.run", *shape, "--node_rank", node, *place, ROOT / "scripts" / script, *arguments]
        agents.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    try:
        yield agents
    finally:
        for agent in agents:
            kill_machine(agent)
            agent.wait()


def run(script, *arguments, **shape):
    """A job that nobody disturbs."""
    with started(script, *arguments, **shape) as agents:
        assert [agent.wait() for agent in agents] == [0] * len(agents)


def events(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_step(folder, step, agents):
    """Until so many steps stand in the log."""
    while len(events(folder)) < step:
        with suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ended with {agents[0].wait(timeout=0.05)}")


def workers(agent):
    """The process numbers of an agent's workers."""
    return [
        int(number) for number in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text(encoding="utf-8").split()
    ]


def kill_machine(agent):
    """Agent and workers, at once as far as that goes."""
    if agent.poll() is None:
        for number in [*workers(agent), agent.pid]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def worst(folder, other):
    """The largest relative difference of a loss of the two trajectories, validations too."""
    ours, theirs = events(folder), events(other)
    assert [event["step"] for event in ours] == [event["step"] for event in theirs]
    pairs = [(a["loss"], b["loss"]) for a, b in zip(ours, theirs, strict=True) if "loss" in a]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def counts(path):
    """What is counted: rows fixed and broken, and those that are right among all."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [found["test"], *(round(found[name]["accuracy"] * found[name]["n"]) for name in ("baseline", "adapted"))]


@pytest.mark.parametrize(("accumulation_steps", "learning_rate"), [(1, 5e-4), (2, 2e-4)])
def test_one_process_is_two_and_two_machines_of_one(tmp_path, accumulation_steps, learning_rate):
    """100 (50) steps of the demo: every loss to 1e-6; the counts of training's report and of evaluate.py exactly."""
    flags = [*SHORT, "--accumulation_steps", accumulation_steps, "--learning_rate", learning_rate]
    shapes = {"one": {}, "two": {"processes": 2}, "machines": {"nodes": 2}, "fsdp": {"processes": 2}}
    for name, shape in shapes.items():
        more = ["--fsdp"] if name == "fsdp" else []
        run("train.py", *flags, *more, "--output_dir", tmp_path / name, **shape)
        adapter, found = tmp_path / "one" / "adapter", tmp_path / f"{name}.json"
        run("evaluate.py", adapter, *more, "--json", found, **shape)
        difference = worst(tmp_path / name, tmp_path / "one")
        print(f"\n{name}, {len(events(tmp_path / name))} losses: at most {difference:.1e} off; counts {counts(found)}")
        assert difference <= 1e-6
        assert counts(tmp_path / name / "report.json") == counts(tmp_path / "one" / "report.json")
        assert counts(found) == counts(tmp_path / "one.json")


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("kill", [1, 2, 3])
def test_a_killed_worker_ends_the_job_within_half_a_minute(tmp_path, nodes, kill):
    """SIGKILL for any of two workers; every agent ends, with another exit code than 0."""
    place = ["--output_dir", tmp_path / "run"]
    with started("train.py", *DEMO, *place, nodes=nodes, processes=2 // nodes) as agents:
        wait_for_step(tmp_path / "run", 10 * kill, agents)
        victim = random.Random(kill).choice([worker for agent in agents for worker in workers(agent)])  # noqa: S311
        os.kill(victim, signal.SIGKILL)
        start = time.monotonic()
        codes = [agent.wait(timeout=WITHIN_S) for agent in agents]
    print(f"\n{nodes} machine(s): ended {time.monotonic() - start:.1f} s after the kill, exit codes {codes}")
    assert 0 not in codes


def test_a_machine_that_dies_ends_the_other_within_half_a_minute(tmp_path):
    """Agent and worker of the second machine at once."""
    with started("train.py", *DEMO, "--output_dir", tmp_path / "run", nodes=2) as agents:
        wait_for_step(tmp_path / "run", 20, agents)
        kill_machine(agents[1])
        start = time.monotonic()
        code = agents[0].wait(timeout=WITHIN_S)
    print(f"\nended {time.monotonic() - start:.1f} s after the kill, exit code {code}")
    assert code != 0


def test_restarts_go_on_to_the_bytes_of_the_run_that_nobody_killed(tmp_path):
    """`torchrun --max_restarts 3` and three kills at random steps, with dropout and accumulation."""
    flags = [*DEMO, "--limit_train", 1600, "--epochs", 2, "--learning_rate", 5e-3, "--dropout", 0.1, "--save_steps", 5]
    flags += ["--accumulation_steps", 2, "--batch_size", 16]
    place = tmp_path / "run"
    run("train.py", *flags, "--output_dir", tmp_path / "whole", processes=2)
    command = ["train.py", *flags, "--output_dir", place, "--resume", place]
    choice = random.Random(5)  # noqa: S311
    with started(*command, processes=2, max_restarts=3) as agents:
        for step in (12, 40, 70):
            wait_for_step(place, step + choice.randrange(20), agents)
            os.kill(choice.choice(workers(agents[0])), signal.SIGKILL)
        assert agents[0].wait() == 0
    whole, again = (folder / "adapter" / "adapter_model.safetensors" for folder in (tmp_path / "whole", place))
    assert again.read_bytes() == whole.read_bytes()
    print(f"\n3 restarts: {len(whole.read_bytes()):,} bytes of adapter are those of the undisturbed run")
