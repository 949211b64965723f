"""The scripts under PyTorch's agent: machines, dead processes, restarts. tests/torture has torchrun itself."""

import json

import numpy as np
import pytest
from support.agents import in_agents
from support.command_line import call, train_arguments

from lora_scratch.commands import train

WITHIN_S = 30  # the promise; the agent itself waits as long for a worker that does not listen


def arguments(job, run, *more):
    return [*train_arguments(job.base, job.data, run), *more]


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def adapter_bytes(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def counted(run):
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return [found["test"], *(found[name][key] for name in ("baseline", "adapted") for key in ("accuracy", "n"))]


def test_two_machines_of_one_process_train_as_one_process(job, tmp_path):
    """Two agents on loopback: every loss to 1e-5, with accumulation; all counts exactly."""
    flags = ["--dropout", 0, "--accumulation_steps", 2, "--batch_size", 8]
    assert call(train, *arguments(job, tmp_path / "alone", *flags)) == 0
    ended = in_agents("train", *arguments(job, tmp_path / "run", *flags), folder=tmp_path / "said", nodes=2)
    assert ended.codes == [0, 0], ended.said
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), rtol=1e-5)
    assert counted(tmp_path / "run") == counted(tmp_path / "alone")
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["command"].startswith(
        "torchrun --nnodes 2 "
    )


@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (2, 1)], ids=["of one machine", "of two machines"])
def test_a_killed_process_ends_the_job_and_a_resume_goes_on(job, tmp_path, nodes, processes):
    """Exit codes other than 0 everywhere, within half a minute."""
    run = [*arguments(job, tmp_path / "run"), "--save_steps", 2]
    ended = in_agents("train", *run, folder=tmp_path / "said", nodes=nodes, processes=processes, killed=(1, 5))
    assert 0 not in ended.codes
    assert 0 < ended.seconds < WITHIN_S
    assert {path.name for path in (tmp_path / "run" / "state").iterdir()} == {"step_000002", "step_000004"}


def test_a_restart_goes_on_from_the_last_checkpoint_to_the_same_adapter(job, tmp_path):
    """`torchrun --max_restarts 1`, each process killed once, with dropout: the bytes of the run that nobody killed."""
    adapters = []
    for name, killed in {"whole": (), "first": (0, 5), "second": (1, 6)}.items():
        run = tmp_path / name / "run"
        place = ["--resume", run, "--save_steps", 2]
        options = {"folder": tmp_path / f"{name}-said", "processes": 2, "max_restarts": 1, "killed": killed}
        ended = in_agents("train", *arguments(job, run), *place, **options)
        assert ended.codes == [0], ended.said
        assert ("goes on after step" in ended.said) == bool(killed)
        adapters.append(adapter_bytes(run))
    assert adapters[1] == adapters[0]
    assert adapters[2] == adapters[0]
