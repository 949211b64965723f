"""lora_scratch/training/checkpoint.py: a checkpoint is complete or it does not exist, and it is what was written."""

import os
from contextlib import suppress

import pytest
import torch

from lora_scratch.errors import CheckpointError, LoraScratchError
from lora_scratch.training import Checkpoints
from lora_scratch.training.checkpoint import TENSORS, VALUES, read_state

STATE = {
    "a/x": torch.randn(3, 4),
    "a/y": torch.arange(5, dtype=torch.uint8),
    "step": 7,
    "loss": 0.1 + 0.2,
    "words": [1, None],
}


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def test_load_gives_what_save_was_given(tmp_path):
    """Bits and dtypes of tensors, every digit of numbers; no pickle among the files."""
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(7, STATE)
    assert same(checkpoints.load(), STATE)
    assert {path.name for path in checkpoints.path(7).iterdir()} == {"tensors.safetensors", "values.json"}


def test_there_is_nothing_to_load_before_the_first_save(tmp_path):
    """A run that was killed before its first checkpoint starts from the beginning."""
    assert Checkpoints(tmp_path / "state").load() is None


def test_the_last_one_is_loaded_and_the_oldest_ones_go(tmp_path):
    """By step, not by name or date: step 1,000,000 has a digit more than its place."""
    checkpoints = Checkpoints(tmp_path / "state", keep=2)
    for step in (999_999, 1_000_000, 5_000_000):
        checkpoints.save(step, {**STATE, "step": step})
    assert checkpoints.steps() == [1_000_000, 5_000_000]
    assert checkpoints.load()["step"] == 5_000_000


def test_a_step_that_has_a_checkpoint_keeps_it(tmp_path):
    """Replacing a folder takes two renames; a kill in between would leave none."""
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(7, STATE)
    checkpoints.save(7, {"step": 8})
    assert same(checkpoints.load(), STATE)


def test_what_a_killed_process_left_is_no_checkpoint_and_goes_away(tmp_path):
    """A folder that was being written or removed has another name than one that is whole."""
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(7, STATE)
    for name in (".step_000008.lora-scratch-x1y2", ".step_000006.lora-scratch-gone"):
        (tmp_path / "state" / name).mkdir()
    (tmp_path / "state" / ".file.lora-scratch-17.part").write_text("half")
    assert same(checkpoints.load(), STATE)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step_000007"]


# every call of a save: files and folders are opened, flushed and renamed, then the oldest checkpoint is renamed away
@pytest.mark.parametrize(
    ("name", "count"),
    [("mkdir", 0), *(("open", n) for n in range(4)), *(("fsync", n) for n in range(6)), *(("replace", n) for n in range(4))],
)
def test_a_disk_that_fails_anywhere_in_a_save_leaves_a_whole_one(tmp_path, monkeypatch, name, count):
    """One line, no half checkpoint, and nothing that fills the full disk further."""
    checkpoints = Checkpoints(tmp_path / "state", keep=1)
    checkpoints.save(7, STATE)
    real, calls = getattr(os, name), []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) > count:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, full)
    with pytest.raises(LoraScratchError, match="No space left on device"):
        checkpoints.save(8, STATE)
    monkeypatch.undo()
    assert same(checkpoints.load(), STATE)
    assert not [path for path in (tmp_path / "state").iterdir() if path.name.startswith(".")]


def test_every_flipped_byte_is_noticed(tmp_path):
    """Of both files; a damaged checkpoint is one typed error that says what to do."""
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(7, STATE)
    for name in (TENSORS, VALUES):
        path = checkpoints.path(7) / name
        content = path.read_bytes()
        for place in range(0, len(content), 7):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with suppress(CheckpointError):
                assert same(read_state(checkpoints.path(7)), STATE)  # white space between the values
        path.write_bytes(content)


@pytest.mark.parametrize("name", [TENSORS, VALUES])
def test_a_missing_or_empty_file_is_one_typed_error(tmp_path, name):
    """Deleted underneath, or cut to nothing."""
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(7, STATE)
    (checkpoints.path(7) / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step_000007: is (no checkpoint|not what was written)"):
        checkpoints.load()
    (checkpoints.path(7) / name).unlink()
    with pytest.raises(CheckpointError, match=r"step_000007: can't be read \(No such file"):
        checkpoints.load()
