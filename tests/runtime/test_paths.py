"""lora_scratch/runtime/paths.py: what the operating system refuses is one line, on every Python."""

import errno
import os
from pathlib import Path

import pytest
from support.typed_flags import hostile_paths
from torch import nn

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import load_splits, read_texts
from lora_scratch.errors import AdapterFileError, ConfigError, DataError, ModelError
from lora_scratch.model.base import load_base
from lora_scratch.runs import check_file, check_free, local_adapter
from lora_scratch.runs.resume import recorded_run
from lora_scratch.runtime import paths
from lora_scratch.runtime.paths import path_fault, shown_path, typed_path
from lora_scratch.serialization import save_adapter

KINDS = [
    "a long name",
    "a long path",
    "a path without room for a file in it",
    "NUL",
    "a lone surrogate",
    "a link to itself",
    "through a link to itself",
    "in a file",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_the_system_refuses_is_one_line(tmp_path, kind):
    """The flag, the path, the reason and what to do; never OSError or ValueError from below."""
    hostile = hostile_paths(tmp_path)
    assert list(hostile) == KINDS
    path, reason = hostile[kind]
    with pytest.raises(
        ConfigError, match=rf"^--output .*: can't be used \({reason}\); expected .*; choose another$"
    ) as caught:
        typed_path(path, flag="--output")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "name", ["file", "folder", "folder/new", "new/new", "pipe", ".", "..", "", "hub:a/b", "\udcff", "dangling"]
)
def test_a_path_that_can_be_is_given_back(tmp_path, monkeypatch, name):
    """Whether anything is there or not, and of whatever kind it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo("pipe")
    for written in (False, True):
        assert str(typed_path(name, flag="--x", written=written)) == (name or ".")


def test_a_folder_that_may_not_be_looked_into_is_refused(tmp_path):
    """What lies in it, and the folder itself, where nothing could be read."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o600)
    user = os.geteuid()
    if user == 0:
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(0o755)
        os.seteuid(65534)  # nothing is forbidden to root
    try:
        faults = [path_fault(locked / "x"), path_fault(locked)]
    finally:
        os.seteuid(user)
    for fault in faults:
        assert fault == ("can't be used (Permission denied)", "a place that this user may look into")


def test_an_error_without_a_clause_of_its_own_is_one_line_too(monkeypatch):
    """A network drive that has gone, say."""

    def look(path, *, in_a_file):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(paths, "_look", look)
    with pytest.raises(ConfigError, match=r"--json x: can't be used \(Stale file handle\); expected a path that the oper"):
        typed_path("x", flag="--json")


def test_a_written_path_has_room_for_the_name_that_is_written_first(tmp_path):
    """A file is written as .<name>.<process>.part: a name of 255 bytes is one to read from, not one to write."""
    name = "a" * 250
    (tmp_path / name).touch()
    assert path_fault(tmp_path / name) is None
    assert path_fault(tmp_path / name, written=True) == ("can't be used (File name too long)", "a shorter path")
    assert path_fault(tmp_path / ("a" * 241), written=True) is None


def test_a_file_is_no_obstacle_to_a_name_of_the_hub(tmp_path, monkeypatch):
    """The file `owner` here and owner/name there have nothing to do with each other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").touch()
    assert path_fault("owner/name", or_hub=True) is None
    for path, or_hub in (("owner/name", False), ("./owner/name", True), ("owner/name/x", True)):
        assert path_fault(path, or_hub=or_hub) == ("can't be used (Not a directory)", "a folder before every slash")


def test_a_very_long_path_is_shown_by_its_two_ends():
    """Of several thousand letters nobody finds the reason behind them."""
    assert shown_path("checkpoints/demo") == "checkpoints/demo"
    assert shown_path("a" * 500 + "b") == "a" * 60 + "[...]" + "a" * 59 + "b"


CALLS = {
    "save_adapter": (
        lambda path: save_adapter(inject(nn.Sequential(nn.Linear(3, 2)), LoRAConfig(targets=["0"], rank=1)), path)
    ),
    "local_adapter": local_adapter,
    "load_base": load_base,
    "load_splits": load_splits,
    "read_texts": (lambda path: next(read_texts(path))),
    "check_file": check_file,
    "check_free": (lambda path: check_free(Path(path))),
    "recorded_run": recorded_run,
}
TYPES = {"local_adapter": AdapterFileError, "load_base": ModelError, "load_splits": DataError, "read_texts": DataError}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_function_of_the_package_refuses_the_path_with_its_own_type(tmp_path, name, kind):
    """A caller from Python has no flags, and catches what is documented."""
    path, reason = hostile_paths(tmp_path)[kind]
    with pytest.raises(TYPES.get(name, ConfigError)) as caught:
        CALLS[name](path)
    assert type(caught.value) is TYPES.get(name, ConfigError)
    assert f"can't be used ({reason})" in str(caught.value)
