"""lora_scratch/runs/report_files.py: a report is refused where it would overwrite what the command reads or writes."""

import os
from argparse import Namespace
from pathlib import Path

import pytest

from lora_scratch.errors import ConfigError
from lora_scratch.runs import check_reports

TAKEN = r"is taken by .*, which this command reads or writes; expected a file apart from its inputs.*; choose another"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run with its adapter, a base, two data sets, and an old report; the working folder is theirs."""
    for name in (
        *("run/config.json", "run/metrics.jsonl", "run/report.json", "run/adapter/adapter_config.json"),
        *("base/config.json", "data/train.csv", "data/test-00000-of-00001.parquet", "data/notes.json"),
        *("card/README.md", "card/mine.csv", "mine.jsonl", "old.json"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "card/README.md").write_text("---\nconfigs: []\n---\n")
    (tmp_path / "link.json").symlink_to("mine.jsonl")
    (tmp_path / "linked").symlink_to("run")
    os.link(tmp_path / "mine.jsonl", tmp_path / "hard.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


INPUTS = {
    "adapter": "run/adapter",
    "model": "base",
    "add": ["elsewhere", "run/adapter"],
    "run": "run",
    "dataset": "data",
    "output": "new/sum",
    "file": "mine.jsonl",
}


@pytest.mark.parametrize("flag", ["json", "html"])
@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("file", "mine.jsonl"),
        ("file", "./new/../mine.jsonl"),
        ("file", "link.json"),
        ("file", "hard.json"),
        ("adapter", "run/adapter/adapter_config.json"),
        ("adapter", "run/adapter/a new one.json"),
        ("adapter", "run/report.json"),
        ("adapter", "linked/config.json"),
        ("add", "run/adapter/adapter_config.json"),
        ("run", "run/config.json"),
        ("run", "run/adapter/x.json"),
        ("run", "run/report.html"),
        ("model", "base/config.json"),
        ("dataset", "data/train.csv"),
        ("dataset", "data/test-00000-of-00001.parquet"),
        ("dataset", "data/validation.json"),
        ("output", "new/sum"),
        ("output", "new/sum/adapter_config.json"),
        ("output", "new"),
    ],
)
def test_a_report_in_the_place_of_an_input_or_a_result_is_refused(place, flag, name, report):
    """Under each spelling, through links, and where nothing is yet."""
    with pytest.raises(ConfigError, match=rf"^--{flag} {report}: {TAKEN}"):
        check_reports(Namespace(**{name: INPUTS[name]}), Namespace(**{flag: report}))


@pytest.mark.parametrize("report", ["card/mine.csv", "card/README.md"])
@pytest.mark.parametrize("dataset", ["card", "card:part"])
def test_a_report_in_a_data_set_with_a_card_is_refused(place, dataset, report):
    """The card names the files, so any name can be that of rows."""
    with pytest.raises(ConfigError, match=TAKEN):
        check_reports(Namespace(dataset=dataset, json=report))


@pytest.mark.parametrize("report", ["old.json", "new.json", "new/x.json", "run/mine.json", "data/notes.json"])
def test_a_report_apart_is_taken_and_may_replace_an_older_one(place, report):
    """Next to the adapter in the folder of its run too."""
    check_reports(Namespace(**INPUTS, json=report, html=f"{report}.html", figures="pictures"))


def test_a_picture_folder_is_a_place_for_reports_but_no_report_itself(place):
    """A report there would end in an error after the work."""
    check_reports(Namespace(figures="pictures", json="pictures/x.json"))
    with pytest.raises(ConfigError, match=TAKEN):
        check_reports(Namespace(figures="pictures", json="pictures"))


@pytest.mark.parametrize("other", ["x.json", "./x.json", "linked/../x.json", "x.json/page"])
def test_two_reports_are_two_files(place, other):
    """The second would replace the first, or have no folder to be in."""
    with pytest.raises(ConfigError, match=f"^--html {other}: {TAKEN}"):
        check_reports(Namespace(json="x.json", html=other))


def test_two_links_to_one_file_are_refused(place):
    """As two spellings are."""
    Path("also.json").symlink_to("old.json")
    with pytest.raises(ConfigError, match=f"^--html also.json: {TAKEN}"):
        check_reports(Namespace(json="old.json", html="also.json"))


def test_names_of_the_hub_and_of_the_demo_are_no_places(place):
    """Nothing here is read then."""
    check_reports(Namespace(adapter="hub:owner/name", model="demo", dataset="owner/data:part", json="demo/x.json"))
    check_reports(Namespace(dataset="missing.csv", json=None, html=None))
