"""scripts/study/ablate.py: the table, the file and the page say the same, and nothing is written of what can't be done."""

import json
import re

import pytest
from support.command_line import call
from support.report_pages import Outline

from lora_scratch.commands import evaluate
from lora_scratch.commands.study import ablate
from lora_scratch.tasks import holm


@pytest.fixture(scope="module")
def made(job, tmp_path_factory):
    """The JSON and the page of one ablation."""
    place = tmp_path_factory.mktemp("ablation")
    arguments = ["--strengths", 0, 0.5, 1, "--json", place / "found.json", "--html", place / "page.html"]
    assert call(ablate, job.adapter, *arguments, "--precision", "fp32") == 0
    return json.loads((place / "found.json").read_text(encoding="utf-8")), (place / "page.html").read_text(
        encoding="utf-8"
    ).replace("<wbr>", "")


def test_ablation_tries_every_part_and_is_measured_as_evaluate_measures(job, made, tmp_path):
    """Two layers of three projections: 1 + 5 · 2 + 6 trials and three strengths, on the validation rows."""
    found, _ = made
    assert len(found["trials"]) == 1 + 5 * 2 + 6 + 3
    report = tmp_path / "report.json"
    arguments = [job.adapter, "--split", "validation", "--precision", "fp32", "--json", report]
    assert call(evaluate, *arguments) == 0
    measured = json.loads(report.read_text(encoding="utf-8"))
    assert (found["rows"], found["baseline"], found["adapted"]) == (
        24,
        measured["baseline"]["accuracy"],
        measured["adapted"]["accuracy"],
    )
    whole = found["trials"][-1]
    assert (whole["what"], whole["name"], whole["found"]["change"], whole["found"]["p_value"]) == ("strength", "1", 0, 1)
    p_values = [trial["found"]["p_value"] for trial in found["trials"]]
    assert [trial["p_holm"] for trial in found["trials"]] == pytest.approx(holm(p_values))


def test_ablation_prints_every_trial_and_the_correction(job, tmp_path, capsys):
    """With the figures of the JSON; the sentence says of how many tests."""
    place = tmp_path / "found.json"
    assert call(ablate, job.adapter, "--split", "test", "--strengths", 0.25, "--limit_eval", 10, "--json", place) == 0
    printed, found = capsys.readouterr().out, json.loads(place.read_text(encoding="utf-8"))
    assert found["rows"] == 10
    assert "Holm's correction is over all 18 trials." in printed
    for trial in found["trials"]:
        name = trial["name"] if trial["what"] == "strength" else f"{trial['group']} {trial['name']}"
        name = re.escape(f"{trial['what']} {name}")
        each = trial["found"]
        figures = rf"\| {each['score']:.4f} \| \{each['change']:+.4f} \| .*\| {each['fixed']} \| {each['broken']} \|"
        assert re.search(rf"^\| {name} {figures}", printed, re.MULTILINE), name


def test_the_page_has_the_pictures_and_their_figures(made):
    """A heat map, bars and the dial, each with a text and a table; every trial is listed."""
    found, page = made
    outline = Outline(page)
    pictures = [attributes for _, attributes in outline.elements if attributes.get("role") == "img"]
    assert [picture["aria-label"].split()[0] for picture in pictures] == ["Heat", "Bars", "Curve"]
    assert "What carries the gain" in page
    for trial in found["trials"]:
        assert trial["name"] in page
        assert f"{trial['found']['score']:.4f}" in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--strengths", "inf"], 2, "--strengths: found inf; expected finite numbers"),
        (["--strengths", "nan"], 2, "--strengths: found nan"),
        (["--split", "all"], 2, "invalid choice: 'all'"),
        (["--html", "."], 1, "--html .*is no regular file"),
        (["--limit_eval", "-1"], 1, "--limit_eval: found -1; expected at least 1"),
        (["--dataset", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_can_not_be_done_is_one_line(job, tmp_path, monkeypatch, capsys, arguments, code, message):
    """Wrong usage is 2, anything else 1; no file is begun."""
    monkeypatch.chdir(tmp_path)
    assert call(ablate, job.adapter, *arguments, "--json", tmp_path / "found.json") == code
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert list(tmp_path.iterdir()) == []
