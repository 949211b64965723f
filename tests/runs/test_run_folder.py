"""lora_scratch/runs/run_folder.py: a place is refused before the work whose result would find no place there."""

import os
from pathlib import Path

import pytest

from lora_scratch.errors import ConfigError, LoraScratchError
from lora_scratch.runs import RunOptions, check_file, check_free, run_folder


@pytest.mark.parametrize("name", ["new", "empty"])
def test_a_new_or_empty_folder_is_free(tmp_path, name):
    """Given back as it is."""
    (tmp_path / "empty").mkdir()
    assert check_free(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "holds files already"),
        ("file", "holds files already"),
        ("pipe", "holds files already"),
        ("link to nothing", "holds files already"),
        ("a" * 300, "can't be used .File name too long"),
        ("\udcff", "can't be used .not UTF-8"),
    ],
    ids=ascii,
)
def test_a_place_that_is_taken_or_can_not_be_is_refused(tmp_path, name, message):
    """Nothing is written over, and nothing ends in an OSError later."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to nothing").symlink_to("nothing")
    with pytest.raises(ConfigError, match=rf"--merged .*{message}"):
        check_free(tmp_path / name, flag="--merged")


def test_a_file_that_is_there_may_be_written_over(tmp_path):
    """As may one that is not there, or none at all."""
    (tmp_path / "a.json").touch()
    for path in (str(tmp_path / "a.json"), str(tmp_path / "new" / "b.json"), None):
        check_file(path)


@pytest.mark.parametrize("name", [".", "pipe", "a" * 300, "file/x"])
def test_a_place_that_holds_no_file_is_refused(tmp_path, name):
    """A folder, a pipe, a name too long, a file where a folder would have to be."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--json .*(is no regular file|can't be used)"):
        check_file(str(tmp_path / name))


@pytest.mark.parametrize("name", ["link", "folder/x.json"])
@pytest.mark.parametrize("new", [False, True])
def test_a_link_to_nothing_is_not_replaced(tmp_path, name, new):
    """Nor is a folder made in the place of one."""
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "folder").symlink_to("nothing at all")
    with pytest.raises(ConfigError, match=rf"--output .*{name}: is a symbolic link to nothing; expected .*remove the link"):
        check_file(str(tmp_path / name), flag="--output", new=new)


def test_a_file_that_must_be_new_is_not_written_over(tmp_path):
    """It may be the very texts that are to be classified."""
    (tmp_path / "texts.txt").write_text("mine")
    check_file(str(tmp_path / "texts.txt"))
    check_file(str(tmp_path / "labels.jsonl"), new=True)
    with pytest.raises(ConfigError, match=r"--output .*texts.txt: is there already; choose another"):
        check_file(str(tmp_path / "texts.txt"), flag="--output", new=True)


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "state", "state/step_000400", "adapter"])
def test_a_run_that_leads_out_of_its_folder_is_not_resumed(tmp_path, name):
    """Nothing outside is emptied, overwritten or removed."""
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / name).parent.mkdir(parents=True)
    outside.write_text("precious")
    (folder / "config.json").write_text("{}")
    (folder / name).symlink_to(outside)
    options = RunOptions(resume=str(folder))
    with pytest.raises(LoraScratchError, match=rf"{name}: is a symbolic link"), run_folder(options, {}):
        pass
    assert outside.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_an_output_that_is_renamed_to_needs_a_name(tmp_path, monkeypatch, name):
    """Before the work; a run can fill the empty folder that one is in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^--output {name}: is a folder without a name of its own"):
        check_free(Path(name), flag="--output")
    assert check_free(Path(".")) == Path(".")
