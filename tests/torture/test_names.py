"""100 hostile names in cards and tables: shown as they are, without any effect, and read back as they were.

The whole set takes seconds, so it is in the ordinary suite.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from functools import cache
from html import unescape

import pytest
import yaml
from support.hostile_names import NAMES
from support.report_pages import report

from lora_scratch.adapter import LoRAConfig
from lora_scratch.evaluation import Report, render
from lora_scratch.runs import model_card
from lora_scratch.runs.model_card import combined_card, compressed_card
from lora_scratch.runtime.markdown import markdown_code, markdown_text, yaml_block
from lora_scratch.serialization import DataRecord, Provenance
from lora_scratch.serialization.provenance import BaseRecord, TrainingRecord
from lora_scratch.training import tensorboard

markdown = pytest.importorskip("markdown")
SHOWN = [name for name in NAMES if name.strip()]


def provenance(name: str) -> Provenance:
    """Everything in it that a card shows is this name."""
    return Provenance(
        base=BaseRecord(name, {}),
        labels=(name, f"not {name}"),
        data=DataRecord(source=name, dataset=name),
        training=TrainingRecord(1, 8, 0.1, "fp32", 0),
        command=name,
    )


def cards(name: str) -> list[str]:
    """The cards of an adapter, of a sum and of a compression."""
    known = provenance(name)
    return [
        model_card(known, LoRAConfig(targets=[name or "x"], head_modules=[name]), with_label(name), test_split=name),
        combined_card(name, known, [(name, 0.5)], residual=0.1, command=name),
        compressed_card(name, known, name, "", command=name),
    ]


whole_report = cache(report)


def with_label(name: str) -> Report:
    """Return a report whose first label has this name."""
    whole = whole_report()
    assert whole.per_class is not None
    before, after = whole.per_class.baseline, whole.per_class.adapted
    named = [[replace(rows[0], label=name), *rows[1:]] for rows in (before, after)]
    return replace(
        whole,
        labels=[name, *whole.labels[1:]],
        per_class=replace(whole.per_class, baseline=named[0], adapted=named[1]),
        constant=replace(whole.constant, answer=name),
        thresholds={name: 0.5},
    )


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_card_has_one_heading_and_nothing_from_a_name_has_an_effect(name):
    """The hub's own reader gets what was meant; the page has no image, link, script or comment."""
    from huggingface_hub import ModelCard

    for number, card in enumerate(cards(name)):
        assert all(line.isprintable() for line in card.split("\n"))
        _, front, body = card.split("---\n", 2)
        known = {"library_name", "pipeline_tag", "tags", "widget", "model-index", "base_model", "datasets"}
        assert yaml.safe_load(front).keys() <= known
        assert yaml.safe_load(front).get("base_model", name) == name
        results = ModelCard(card).data.eval_results
        assert {result.dataset_split for result in results or ()} == ({name or None} if number == 0 else set())
        page = markdown.markdown(body, extensions=["tables", "fenced_code"])
        assert page.count("<h1>") == 1
        assert page.count("<h2>") == len(re.findall("^## ", body, flags=re.MULTILINE)) <= 2
        assert not re.search(r"<(img|a|script|!--|blockquote|ul|ol|hr)\b|<!--", page)


@pytest.mark.parametrize("name", SHOWN, ids=ascii)
def test_a_name_in_markdown_reads_as_it_is(name):
    """On one line, without control characters."""
    page = markdown.markdown(f"x {markdown_text(name)} x")
    text = unescape(re.sub("<[^>]*>", "", page))
    shown = re.sub(r"\\([|~])", r"\1", text)  # which GitHub's Markdown knows, and this one does not
    assert "\n" not in shown
    assert shown.isprintable()
    assert len(shown) >= len(" ".join(name.split())) + 2
    assert markdown_code(name).startswith("`")
    assert yaml.safe_load(yaml_block({"name": [name, {name: 1}]})) == {"name": [name, {name: 1}]}


def test_a_name_without_an_effect_is_written_as_it_is():
    """Cards stay readable as text."""
    assert (
        markdown_text("owner/distilbert-base_uncased v1.0 (large) + 2") == "owner/distilbert-base_uncased v1.0 (large) + 2"
    )
    assert yaml_block({"base_model": "owner/name"}) == "base_model: owner/name\n"


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_report_on_the_terminal_is_clean(name):
    """Labels come from files of others."""
    assert all(line.isprintable() for line in render(with_label(name)).split("\n"))


def test_cells_of_a_table_are_data_and_stay_as_they_are():
    """A formula too: what reads the file again gets what was written, and --help says what a spreadsheet does."""
    from lora_scratch.deploy.output_tables import _Lines, cell

    file = io.StringIO(newline="")
    writer = csv.writer(_Lines(file))
    names = [name for name in NAMES if "\0" not in name]
    writer.writerows([cell(name), cell([name]), "x"] for name in names)
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert [row[0] for row in rows] == names


def test_tags_of_tensorboard_are_cleaned(tmp_path):
    """A module of any name is a tag of plain letters."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard.tensorboard_listener(tmp_path, wanted=True) as listener:
        assert listener is not None
        for step, name in enumerate(name for name in NAMES if "\udcff" not in name):
            listener({"event": "step", "step": step, "modules": {name: {"norm": 1.0}}})
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert all(re.fullmatch(r"[-/\w.]+", tag) for tag in tags)
