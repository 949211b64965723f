"""500 damaged folders of runs: --resume ends in the same adapter, or in one line; it writes nowhere else.

    pytest -m torture tests/torture/test_run_folders.py -s       the counts by kind

config.json holds the settings, and no digest: where it says others that are valid, others are trained. The same holds
for a checkpoint whose digests were made to match.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path

import pytest
from support.alarm import no_hang
from support.command_line import call, train_arguments
from support.damage import copy, told
from support.folders import save_base, save_rows
from support.pictures import quick_pictures
from support.run_damage import SAME, damage_run

from lora_scratch.commands import train
from lora_scratch.runs import is_finished
from lora_scratch.training import loop

SHORT, FULL = 6, 500


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A run that died in its last step, after the checkpoints of steps 3 and 6."""
    place = tmp_path_factory.mktemp("runs")
    base, data = save_base(place / "base", labels=("sadness", "joy")), save_rows(place / "data", train=64, held_out=8)
    launch = loop.Stepper.launch

    def die_in_step_8(stepper, batches, **options):
        if stepper.step == 7:
            raise SystemExit(9)
        return launch(stepper, batches, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Stepper, "launch", die_in_step_8)
        assert call(train, *train_arguments(base, data, place / "good"), "--save_steps", 3, "--keep", 3) == 9
    return place / "good"


def adapter_bytes(run: Path) -> bytes:
    """The tensors that the run ends in."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def outside(place: Path) -> dict[str, bytes | None]:
    """What lies beside the run: nothing of it may change."""
    paths = [place, *place.rglob("*")]
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in paths}


def resumed(run: Path, capsys) -> int:
    """Resume; the exit code. What a person reads is one line."""
    capsys.readouterr()
    with warnings.catch_warnings(), no_hang(within_s=60):
        warnings.simplefilter("ignore")
        code = call(train, "--resume", run)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in error
    assert (code, len(lines)) in ((0, 0), (1, 1)), f"exit code {code}: {error[-300:]}"
    return code


def run_all(good: Path, place: Path, seeds: range, capsys) -> Counter[str]:
    """Damage and resume for every seed; the counts by outcome."""
    whole = copy(good, place / "whole")
    assert resumed(whole, capsys) == 0
    expected = adapter_bytes(whole)
    (place / "outside" / "folder").mkdir(parents=True)
    for name in ("file", "folder/file"):
        (place / "outside" / name).write_text("not of the run")
    before, counts, failures = outside(place / "outside"), Counter[str](), list[str]()
    for seed in seeds:
        run = copy(good, place / "run")
        what, promise = damage_run(run, random.Random(seed))  # noqa: S311
        try:
            code = resumed(run, capsys)
            equal = code == 0 and adapter_bytes(run) == expected
            assert code or equal or promise != SAME, "another adapter"
            assert code or is_finished(run), "done, without a report"
            assert outside(place / "outside") == before, "wrote outside of its folder"
            counts[f"{'refused' if code else 'equal' if equal else 'other settings':<15} {what.split()[0]}"] += 1
        except BaseException as error:
            failures.append(f"seed {seed}: {what}: {type(error).__name__}: {str(error)[:300]}")
            if isinstance(error, KeyboardInterrupt):
                raise
    assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:60]])
    return counts


def test_damaged_run_is_resumed_to_the_same_or_refused_in_a_short_sample(good, tmp_path, capsys):
    """The sample of the torture below that runs with the ordinary suite."""
    with quick_pictures():
        run_all(good, tmp_path, range(SHORT), capsys)


@pytest.mark.torture
def test_damaged_run_is_resumed_to_the_same_or_refused(good, tmp_path, capsys):
    """500 folders."""
    counts = run_all(good, tmp_path, range(FULL), capsys)
    with capsys.disabled():
        print(told(counts))
