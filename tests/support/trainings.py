"""The trainings of a study in this process: the start of one of their own takes longer than a small run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import call

from lora_scratch.commands import train
from lora_scratch.study import sweep


def train_in_process(patch: pytest.MonkeyPatch) -> list[Path]:
    """Let studies train here from now on; return the list of the run folders, which grows with each training."""
    places: list[Path] = []

    def run(script: Path, place: Path, flags: list[str], running: list[object]) -> None:
        places.append(place)
        assert call(train, *flags, "--resume", place, "--output_dir", place) == 0

    patch.setattr(sweep, "_train", run)
    return places
