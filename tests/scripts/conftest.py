"""One small job, run once: its run folder is what the script tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_line import call, train_arguments
from support.folders import save_base, save_rows


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
    assert call(train, *train_arguments(made.base, made.data, made.run)) == 0
    return made
