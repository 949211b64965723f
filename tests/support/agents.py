"""PyTorch's own agent, the one in torchrun, without its start-up time: it and its workers are forks (ranks.py)."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from support import rank_work
from support.command_line import call
from support.pictures import quick_pictures
from support.ranks import FORKS, start_server
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


@dataclass(frozen=True)
class Ended:
    """The exit codes of the agents, the seconds from the kill to the end of the last one, and what the workers said."""

    codes: list[int]
    seconds: float
    said: str


def in_agents(name, *arguments, folder: Path, nodes=1, processes=1, max_restarts=0, killed=()) -> Ended:
    """A script under one agent for each node, as torchrun would start them.

    Args:
        folder: where the workers' output goes.
        killed: (process, step): SIGKILL for that process in that step, at the first attempt.
    """
    start_server()
    folder.mkdir()
    settings = {"min_nodes": nodes, "max_nodes": nodes, "nproc_per_node": processes, "max_restarts": max_restarts}
    settings |= {"rdzv_endpoint": f"127.0.0.1:{free_port()}", "start_method": "fork", "monitor_interval": 0.1}
    work = (name, [str(each) for each in arguments], folder, killed)
    agents = [FORKS.Process(target=_agent, args=(node, settings, work)) for node in range(nodes)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join()
    ended = time.time()
    moment = folder / "killed"
    seconds = ended - float(moment.read_text(encoding="utf-8")) if moment.exists() else 0.0
    said = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.log")))
    return Ended([agent.exitcode for agent in agents], seconds, said)


def free_port() -> int:
    """A port that nobody listens on; the store of the first agent will."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _agent(node, settings, work):
    with open(work[2] / f"agent-{node}.txt", "w") as log:
        os.dup2(log.fileno(), 2)
    where = {"rank": node, "timeout": 60}
    elastic_launch(LaunchConfig(rdzv_backend="static", rdzv_configs=where, run_id="test", **settings), _worker)(*work)


def _worker(name, arguments, folder, killed):
    with open(folder / f"{os.environ['RANK']}.log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if killed and first and killed[0] == int(os.environ["RANK"]):
        rank_work.signal_at(killed[1], signal.SIGKILL, before=lambda: (folder / "killed").write_text(str(time.time())))
    with quick_pictures():
        sys.exit(call(rank_work.SCRIPTS[name], *arguments, in_processes=True))
