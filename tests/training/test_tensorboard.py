"""lora_scratch/training/tensorboard.py: what TensorBoard reads is what metrics.jsonl holds, also after a resume."""

import json

import pytest
from support.command_line import call, train_arguments
from support.folders import save_base, save_rows

from lora_scratch.commands import train
from lora_scratch.errors import ConfigError
from lora_scratch.runtime import extras
from lora_scratch.training import MetricsLog, tensorboard_listener

pytest.importorskip("tensorboard")


def scalars(folder):
    """{name: {step: value}} as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {name: {each.step: each.value for each in found.Scalars(name)} for name in found.Tags()["scalars"]}


def test_board_shows_the_figures_of_the_log(tmp_path):
    """Every number of every event, float32 as TensorBoard stores it; a number that is not finite too."""
    with tensorboard_listener(tmp_path, wanted=True) as listener:
        log = MetricsLog(listener=listener)
        log.write(event="step", step=1, epoch=1, loss=2.5, modules={"q": {"delta_weight": 0.25}})
        log.write(event="step", step=2, epoch=1, loss=float("inf"))
        log.write(event="validation", step=2, epoch=1, accuracy=0.75)
    assert scalars(tmp_path) == {
        "step/loss": {1: 2.5, 2: float("inf")},
        "modules/q/delta_weight": {1: 0.25},
        "validation/accuracy": {2: 0.75},
    }


def test_a_run_that_goes_on_shows_every_step_once(tmp_path):
    """Steps 2 and 3 were written by a process that was killed; the next one begins again at 2."""
    for first, values in ((1, (1.0, 9.0, 9.0)), (2, (4.0, 5.0))):
        with tensorboard_listener(tmp_path, wanted=True) as listener:
            for step, value in enumerate(values, first):
                listener({"event": "step", "step": step, "loss": value})
    assert scalars(tmp_path)["step/loss"] == {1: 1.0, 2: 4.0, 3: 5.0}


def test_nothing_is_written_unless_it_is_wanted(tmp_path):
    """No folder, and no listener."""
    with tensorboard_listener(tmp_path / "tensorboard", wanted=False) as listener:
        assert listener is None
    assert list(tmp_path.iterdir()) == []


def test_board_is_refused_before_the_work_without_its_package(monkeypatch):
    """With the command that installs it."""
    extras.check_extra("tensorboard", flag="--tensorboard")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"--tensorboard: tensorboard not installed; pip install .lora-scratch\[te"):
        extras.check_extra("tensorboard", flag="--tensorboard")


def test_train_writes_the_board_of_the_run(tmp_path):
    """--tensorboard: the losses of metrics.jsonl, step by step."""
    base, data = save_base(tmp_path / "base", labels=("a", "b")), save_rows(tmp_path / "data")
    arguments = [*train_arguments(base, data, tmp_path / "run"), "--epochs", 1, "--tensorboard", "true"]
    assert call(train, *arguments) == 0
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = scalars(tmp_path / "run" / "tensorboard")
    losses = {each["step"]: pytest.approx(each["loss"], rel=1e-6) for each in events if each["event"] == "step"}
    assert shown["step/loss"] == losses
    assert any(name.startswith("modules/") for name in shown)
