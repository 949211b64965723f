"""One small job, run once: its run folder is what the script tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_line import call, train_arguments
from support.folders import save_base, save_rows
from support.pictures import pages_without_drawings as pages_without_drawings
from support.pictures import quick_pictures
from support.task_jobs import MULTI_LABEL, NUMBER, PAIR, save_bert_base, train_task


@dataclass(frozen=True)
class Job:
    """The inputs of a job and its run folder."""

    base: Path
    data: Path
    run: Path

    @property
    def adapter(self) -> Path:
        """What the job saved."""
        return self.run / "adapter"


@pytest.fixture(scope="session")
def job(tmp_path_factory) -> Job:
    """A finished job."""
    from lora_scratch.commands import train

    place = tmp_path_factory.mktemp("job")
    made = Job(save_base(place / "base", labels=("negative", "positive")), save_rows(place / "data"), place / "run")
    with quick_pictures():
        assert call(train, *train_arguments(made.base, made.data, made.run)) == 0
    return made


@pytest.fixture(scope="session")
def task_adapters(tmp_path_factory) -> dict[str, Path]:
    """A trained adapter folder of every kind of task_jobs.py, on one base."""
    place = tmp_path_factory.mktemp("tasks")
    base = save_bert_base(place / "base")
    with quick_pictures():
        return {kind: train_task(place / kind, base, kind) for kind in (MULTI_LABEL, NUMBER, PAIR)}
