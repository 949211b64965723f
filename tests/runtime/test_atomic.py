"""lora_scratch/runtime/atomic.py: a file or folder is the old one or the new one, whatever fails and wherever."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from lora_scratch.errors import LoraScratchError
from lora_scratch.runtime import atomic
from lora_scratch.runtime.atomic import (
    MARK,
    new_file,
    new_folder,
    open_own,
    read_json,
    remove_leftovers,
    write_bytes,
    write_json,
    write_text,
)


def contents(folder):
    """Every file below a folder, by relative path; empty folders show as None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def full_disk(*_, **__):
    """What the system says when there is no room left."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stop_after(_, error):
    """An exception inside a block, whatever was done before it."""
    raise error


def fail_from(monkeypatch, name, count):
    """Let call number `count` of os.<name>, from 0, fail as on a full disk; the others go through."""
    real, calls = getattr(os, name), []

    def sometimes(*args, **options):
        calls.append(args)
        return full_disk() if len(calls) - 1 == count else real(*args, **options)

    monkeypatch.setattr(os, name, sometimes)


def write_folder(place, text, names=("a", "b")):
    """A folder of a few files, written as the adapter's is."""
    with new_folder(place) as folder:
        for name in names:
            write_text(folder / name, text)


def test_write_makes_missing_parents_and_replaces_a_file(tmp_path):
    """The first write needs no folder; the second leaves exactly its own bytes."""
    path = tmp_path / "x" / "y" / "file"
    write_bytes(path, b"old, and longer")
    write_bytes(path, b"new")
    assert contents(tmp_path) == {"x": None, "x/y": None, "x/y/file": b"new"}


def test_bytes_have_left_the_program_before_the_disk_is_told_to_keep_them(tmp_path, monkeypatch):
    """fsync on a file whose last bytes are still in Python's buffer would keep only the others."""
    sizes, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (sizes.append(os.fstat(handle).st_size), real(handle)))
    write_bytes(tmp_path / "file", b"seven b")
    assert sizes[0] == 7


def test_new_folder_makes_missing_parents(tmp_path):
    """As a file does."""
    write_folder(tmp_path / "x" / "y" / "adapter", "new", names=("a",))
    assert (tmp_path / "x" / "y" / "adapter" / "a").read_text(encoding="utf-8") == "new"


def test_json_is_sorted_indented_and_refuses_nan(tmp_path):
    """A file that others can parse and compare: JSON has no NaN."""
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": [\n    1.5,\n    null\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["b"] == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, call):
    """A full disk at any point of the write is one typed error."""
    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(LoraScratchError, match=r"file: could not be written \(No space left on device\); free some space"):
        write_bytes(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_interrupted_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    """Ctrl-C is no OSError, and has to be cleaned up after as well."""
    write_bytes(tmp_path / "file", b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_new_folder_appears_whole_and_replaces_an_old_one_wholly(tmp_path):
    """No file of the old folder survives in the new one, and anyone may read it."""
    place = tmp_path / "adapter"
    write_folder(place, "old", names=("a", "b", "c"))
    write_folder(place, "new", names=("a", "d"))
    assert contents(tmp_path) == {"adapter": None, "adapter/a": b"new", "adapter/d": b"new"}
    assert place.stat().st_mode & 0o777 == 0o755


def test_folder_does_not_exist_before_the_block_ends(tmp_path):
    """A reader never sees a half-written folder."""
    with new_folder(tmp_path / "adapter") as folder:
        write_text(folder / "a", "new")
        assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "adapter" / "a").read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_in_the_block_leaves_the_old_folder_and_nothing_beside_it(tmp_path, error):
    """Also Ctrl-C between two files."""
    place = tmp_path / "adapter"
    write_folder(place, "old")
    before = contents(tmp_path)

    def interrupted():
        with new_folder(place) as folder:
            write_text(folder / "a", "new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert contents(tmp_path) == before


# write_text renames twice, then the old folder goes aside and the new one into its place
@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("old", [True, False], ids=["over an old folder", "in a new place"])
def test_failing_rename_leaves_what_was_there(tmp_path, monkeypatch, count, old):
    """Whichever rename fails, also the very last one: the old folder is in its place, whole."""
    place = tmp_path / "adapter"
    if old:
        write_folder(place, "old")
    before = contents(tmp_path)
    fail_from(monkeypatch, "replace", count)
    if count == 3 and not old:
        write_folder(place, "new")  # there are only three renames then
        assert contents(place) == {"a": b"new", "b": b"new"}
        return
    with pytest.raises(LoraScratchError, match="could not be written"):
        write_folder(place, "new")
    assert contents(tmp_path) == before


def test_file_in_the_place_of_a_folder_is_refused_and_kept(tmp_path):
    """A path that is somebody's file is not moved out of the way."""
    place = tmp_path / "notes.txt"
    place.write_text("mine")
    with pytest.raises(LoraScratchError, match=r"notes\.txt: is a file; expected a folder, or nothing yet"):
        write_folder(place, "new")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_place_that_can_not_be_made_is_a_typed_error(tmp_path):
    """A parent that is a file."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LoraScratchError, match="could not be created"):
        write_folder(tmp_path / "file" / "adapter", "new")
    with pytest.raises(LoraScratchError, match="could not be written"):
        write_text(tmp_path / "file" / "a", "new")


def test_new_file_appears_whole_and_replaces_the_old_one(tmp_path):
    """While it is written the old file is what a reader sees."""
    path = tmp_path / "x" / "file"
    write_text(path, "old")
    with new_file(path) as file:
        file.write("new, ")
        file.write("ä")
        file.flush()
        assert path.read_text(encoding="utf-8") == "old"
    assert contents(tmp_path) == {"x": None, "x/file": "new, ä".encode()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_new_file_leaves_nothing_after_an_exception(tmp_path, error):
    """The old file stays, and no part lies beside it."""
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(error), new_file(path) as file:
        stop_after(file.write("half"), error)
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_new_file_on_a_full_disk_is_one_error_that_names_it(tmp_path, monkeypatch, name):
    """As for `write_bytes`."""
    monkeypatch.setattr(os, name, full_disk)
    with pytest.raises(LoraScratchError, match=r"file: could not be written"), new_file(tmp_path / "file") as file:
        file.write("text")
    assert contents(tmp_path) == {}


def test_new_file_can_not_be_a_folder(tmp_path):
    """Said before anything is computed for it."""
    with pytest.raises(LoraScratchError, match="could not be written"), new_file(tmp_path):
        raise AssertionError


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_write_refuses_what_is_no_regular_file(tmp_path, make):
    """Renamed onto /dev/null, a file would take its place for everyone."""
    make(tmp_path / "place")
    with pytest.raises(LoraScratchError, match=r"place: could not be written .no regular file.; expected a file, or"):
        write_bytes(tmp_path / "place", b"x")
    with pytest.raises(LoraScratchError, match="no regular file"), new_file(tmp_path / "place"):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_text_with_a_lone_surrogate_is_written_with_an_escape(tmp_path):
    """A file name that is no UTF-8 stands in a model card: hours of training must not end there."""
    write_text(tmp_path / "card.md", "at \udcff")
    assert (tmp_path / "card.md").read_bytes() == b"at \\udcff"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10**5, b"9" * 5000], ids=lambda raw: str(raw[:9]))
def test_read_json_names_the_file_that_is_none(tmp_path, content):
    """Whatever is in it, one typed error."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(LoraScratchError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_read_json_reads_what_write_json_wrote_and_waits_on_no_pipe(tmp_path):
    """The two are a pair."""
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "is no regular file"), ("gone", "can't be read .No such file")):
        with pytest.raises(LoraScratchError, match=message):
            read_json(tmp_path / name)


def test_a_new_file_is_flushed_with_the_folder_that_names_it(tmp_path, monkeypatch):
    """A renamed file is lost in a power cut until its folder is on the disk, however the file was written."""
    folders = []
    monkeypatch.setattr(atomic, "_flush_folder", folders.append)
    with new_file(tmp_path / "lines") as file:
        file.write("one\n")
    write_bytes(tmp_path / "bytes", b"two")
    assert folders == [tmp_path, tmp_path]


def test_only_what_this_program_left_is_removed(tmp_path):
    """Folders of others have names that begin with a dot too."""
    others = [".git.bak", ".notes.2024", ".my.part", f".linked{MARK}x.part"]
    (tmp_path / ".git.bak").mkdir()
    (tmp_path / ".notes.2024").mkdir()
    (tmp_path / ".my.part").write_text("mine")
    (tmp_path / f".linked{MARK}x.part").symlink_to(tmp_path / ".my.part")
    (tmp_path / f".report.json{MARK}17.part").write_text("half")
    (tmp_path / f".adapter{MARK}0a1b").mkdir()
    (tmp_path / f".adapter{MARK}0a1b.old").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe"])
def test_a_file_of_ours_is_not_opened_through_a_link(tmp_path, kind):
    """What it leads to stays as it is."""
    victim, path = tmp_path / "victim", tmp_path / "metrics.jsonl"
    victim.write_text("precious")
    {"symbolic link": path.symlink_to, "hard link": path.hardlink_to, "pipe": lambda _: os.mkfifo(path)}[kind](victim)
    with pytest.raises((OSError, LoraScratchError)):
        open_own(path, "a+").close()
    assert victim.read_text(encoding="utf-8") == "precious"


def test_a_new_folder_has_the_rights_that_mkdir_gives(tmp_path):
    """The umask counts, and the setgid bit of the parent."""
    tmp_path.chmod(0o2777)
    before = os.umask(0o077)
    try:
        with new_folder(tmp_path / "adapter"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "adapter").stat().st_mode) == 0o2700


def test_a_folder_is_not_replaced_through_a_link(tmp_path):
    """The link would go, and the folder that it leads to would stay as it was."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "adapter").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoraScratchError, match="is a symbolic link"), new_folder(tmp_path / "adapter"):
        pass
    assert (tmp_path / "adapter").is_symlink()


@pytest.mark.parametrize("name", [".", "..", "inner/..", "/"])
def test_a_folder_without_a_name_of_its_own_is_refused(tmp_path, monkeypatch, name):
    """Nothing can be renamed to the folder that one is in."""
    (tmp_path / "here" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(LoraScratchError, match=r"without a name of its own; .* name a folder"), new_folder(Path(name)):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "inner"]


@pytest.mark.parametrize("error", [Exception, RuntimeError, ValueError])
def test_a_full_disk_that_a_library_tells_of_in_a_type_of_its_own_is_one_line(tmp_path, error):
    """safetensors and tokenizers, which are written in Rust; the message names no temporary folder."""
    with pytest.raises(LoraScratchError) as caught, new_folder(tmp_path / "plain") as folder, new_folder(folder / "base"):
        raise error("Error while serializing: I/O error: No space left on device (os error 28)")
    expected = f"{tmp_path}/plain/base: could not be written (No space left on device); {atomic.FREE_SPACE}"
    assert str(caught.value) == expected
    assert contents(tmp_path) == {}


def test_an_error_that_is_not_the_systems_stays_what_it_is(tmp_path):
    """A defect keeps its traceback, and an error of the project its message."""
    for error in (ZeroDivisionError("28"), LoraScratchError("full (os error 28)", where="elsewhere")):
        with pytest.raises(type(error), match=str(error).replace("(", ".").replace(")", ".")), new_folder(tmp_path / "x"):
            raise error


@pytest.mark.parametrize("write", [write_text, write_folder])
def test_folders_that_were_made_for_what_failed_go_with_it(tmp_path, write, monkeypatch):
    """Those that were there stay, also an empty one."""
    (tmp_path / "there").mkdir()
    fail_from(monkeypatch, "replace", 0)
    with pytest.raises(LoraScratchError, match="No space left"):
        write(tmp_path / "there" / "a" / "b" / "file", "text")
    assert contents(tmp_path) == {"there": None}


def test_files_that_others_wrote_into_a_new_folder_are_flushed(tmp_path, monkeypatch):
    """Some disks say only then that they are full."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with new_folder(tmp_path / "plain") as folder:
        (folder / "parts").mkdir()
        (folder / "parts" / "model.safetensors").write_bytes(b"12")
    written = {os.path.relpath(path, folder) for path in flushed if path.startswith(str(folder))}
    assert written == {".", "parts", "parts/model.safetensors"}
