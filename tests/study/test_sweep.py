"""lora_scratch/study/sweep.py: what is finished stays, what fails says so, and one folder is of one kind of work."""

import sys

import pytest
from support.report_pages import report as full_report

from lora_scratch.errors import ConfigError, LoraScratchError
from lora_scratch.runtime.atomic import write_json
from lora_scratch.study.sweep import check_same_flags, train_all

SCRIPT = """
import pathlib, sys
place = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
assert sys.argv[sys.argv.index("--resume") + 1] == str(place)
if "--fail" in sys.argv:
    sys.exit("error: it went wrong")
place.mkdir(parents=True, exist_ok=True)
(place / "words").write_text(" ".join(sys.argv[1:3]))
"""


@pytest.fixture
def script(tmp_path):
    """A training that writes its first two flags, or fails."""
    place = tmp_path / "work.py"
    place.write_text(SCRIPT)
    return place


def test_train_all_runs_what_has_no_report_and_leaves_the_rest(script, tmp_path):
    """Two at a time, each with its own flags."""
    done = tmp_path / "runs" / "done"
    write_json(done / "report.json", full_report().as_json())
    wanted = {tmp_path / "runs" / f"r-{rank}": ["--rank", str(rank)] for rank in (1, 2, 4)}
    train_all(script, {done: ["--fail"], **wanted}, processes=2)
    assert [path.name for path in done.iterdir()] == ["report.json"]
    assert [(place / "words").read_text(encoding="utf-8") for place in wanted] == ["--rank 1", "--rank 2", "--rank 4"]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"null", b"\xff", b"[" * 10**5])
def test_train_all_runs_again_what_has_no_whole_report(script, tmp_path, content):
    """An empty file is what a full disk or a power cut leaves."""
    place = tmp_path / "runs" / "r-1"
    place.mkdir(parents=True)
    (place / "report.json").write_bytes(content)
    train_all(script, {place: ["--rank", "1"]}, processes=1)
    assert (place / "words").exists()


def test_train_all_says_what_the_failed_one_said(script, tmp_path):
    """Its last line, where, and the file with all of it."""
    with pytest.raises(LoraScratchError, match=r"work\.py for .*bad: it went wrong; .*bad\.log has all it said") as caught:
        train_all(script, {tmp_path / "bad": ["--fail", "x"]}, processes=1)
    assert "Traceback" not in str(caught.value)
    assert sys.exc_info() == (None, None, None)


def test_check_same_flags_refuses_other_work(tmp_path):
    """The first call notes them, the second compares."""
    check_same_flags(tmp_path, ["--epochs", "2"])
    check_same_flags(tmp_path, ["--epochs", "2"])
    with pytest.raises(
        ConfigError, match="was begun with --epochs 2; expected the same flags, not --epochs 3; choose a new"
    ):
        check_same_flags(tmp_path, ["--epochs", "3"])
