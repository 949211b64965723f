"""lora_scratch/reporting: what a page of a run holds, and that data stays data."""

import re

import pytest
from support.report_pages import EVIL, LABELS, Outline, events, module, report, run_result

from lora_scratch.reporting import anatomy_page, page_html, run_page
from lora_scratch.reporting.drawing import Line, line_panel, panels_svg, short, svg
from lora_scratch.study.comparison import PairedTest
from lora_scratch.study.comparison_page import comparison_page
from lora_scratch.tasks import Paired

MODULES = [module("encoder.layer.0.q", 0.2), module("encoder.layer.0.out.dense"), module("encoder.layer.1.q")]


@pytest.fixture(scope="module")
def page():
    return run_page(report(anatomy=MODULES), events(), title=f"Run {EVIL}")


@pytest.fixture(scope="module")
def html(page):
    return page_html(page)


@pytest.fixture(scope="module")
def outline(html):
    return Outline(html)


def test_page_has_the_verdict_first_and_every_section(page):
    """What a reader looks for, in the order of the questions; the picture and a few figures are above the folds."""
    assert page.answer == ("better", report().verdict.sentence)
    assert [section.title for section in page.sections] == [
        "Rows fixed and broken",
        "The answer in figures",
        "Class by class",
        "Training",
        "Stated confidence and accuracy",
        "Short rows and long rows",
        "What the adapter learnt",
        "How the adapter moved",
        "What it cost",
    ]
    assert page.opening is not None
    assert page.facts == [
        ("rows fixed", "25"),
        ("rows broken", "0"),
        ("of all parameters trained", "8.00%"),
        ("training", "100 s"),
    ]


def test_page_of_a_measurement_leaves_out_what_it_has_not():
    """No training, no anatomy: no empty picture."""
    titles = [section.title for section in run_page(report()).sections]
    assert not {"Training", "What the adapter learnt", "How the adapter moved"} & set(titles)


def test_page_keeps_text_of_rows_and_labels_as_text(html, outline):
    """`<script>` in a row, a label, the title or the command is shown, never run: the one script is the package's."""
    assert outline.all("script") == [{}]
    assert html.lower().count("<script") == 1
    shown = "".join(outline.words)
    assert f"row {report().changed.fixed[0].row} {EVIL}" in shown
    assert f"Run {EVIL}" in shown


def test_page_needs_nothing_from_anywhere_else(outline):
    """No address but data: and places on the page; the content security policy forbids the rest."""
    for _, attributes in outline.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert any("default-src 'none'" in (each.get("content") or "") for each in outline.all("meta"))


def test_every_picture_has_words_and_its_figures_as_a_table(page, outline):
    """Seven pictures; who can't see one reads the same."""
    pictures = [picture for section in page.sections for picture in section.pictures]
    drawn = [each for _, each in outline.elements if each.get("role") == "img"]
    assert [each["aria-label"] for each in drawn] == [picture.words for picture in pictures]
    assert len(drawn) == len(outline.all("figure")) - 1 == len(outline.all("details")) - len(page.sections) == 7
    assert all(each.get("role") == "img" or "aria-hidden" in each for each in outline.all("svg"))
    assert all(
        picture.table.rows and len(set(map(len, [picture.table.header, *picture.table.rows]))) == 1 for picture in pictures
    )


def test_confusion_table_holds_the_counts_of_the_report(page):
    """Before, then after, truth by row."""
    (picture,) = next(section for section in page.sections if section.title == "Class by class").pictures
    counts = report().confusion
    assert [list(map(int, row[1:])) for row in picture.table.rows] == counts.baseline + counts.adapted
    assert picture.table.rows[2][0] == "before: 怒り"


def test_curves_leave_out_what_is_not_a_number(page):
    """Step 7 diverged: it has no point, and the others are as logged."""
    (picture,) = page.sections[3].pictures
    assert [row[:2] for row in picture.table.rows[5:8]] == [["6", "0.1667"], ["7", "nan"], ["8", "0.125"]]


def test_long_curves_are_means_over_equal_groups():
    """At most 60 points: of 600 steps each is the mean of ten."""
    (picture,) = run_page(report(), events(600)).sections[3].pictures
    assert len(picture.table.rows) == 60
    assert float(picture.table.rows[-1][1]) == pytest.approx(sum(1 / step for step in range(591, 601)) / 10, rel=1e-3)


def test_heat_map_keeps_modules_apart_that_end_alike():
    """`attention.dense` and `output.dense` of a layer are two columns, and a module that is not adapted is a blank."""
    rows = [
        module("e.layer.0.attention.dense", 0.1),
        module("e.layer.0.output.dense", 0.2),
        module("e.layer.1.output.dense", 0.3),
    ]
    page = anatomy_page(rows, title="a")
    assert page.answer[0] == "Moved by up to 30.0%"
    (picture, _) = page.sections[0].pictures
    assert picture.table.header == ["layer", "attention.dense", "output.dense"]
    assert picture.table.rows == [["0", "0.1000", "0.2000"], ["1", "", "0.3000"]]


def test_comparison_names_the_best_method_and_lists_every_run():
    """The mean over seeds decides."""
    scores = (("lora", 0, 0.8), ("lora", 1, 0.9), ("dora", 0, 0.86), ("dora", 1, 0.86))
    page = comparison_page([run_result(method, seed, accuracy) for method, seed, accuracy in scores], [])
    assert page.answer[0] == "dora: 0.8600"
    assert page.answer[1].startswith("dora has the highest mean accuracy of 2 on 50 rows: 0.8600 over 2 seeds.")
    assert page.sections[0].pictures[0].table.rows[1] == ["lora", "1", "0.9000"]
    Outline(page_html(page))


def test_comparison_over_several_numbers_of_rows_answers_for_the_largest_and_draws_the_curve():
    """`probe` is best where rows are few, and that is not the answer."""
    figures = {("probe", 10): 0.6, ("probe", 100): 0.6, ("lora", 10): 0.3, ("lora", 100): 0.9}
    results = [run_result(method, 0, score, rows=n) for (method, n), score in figures.items()]
    better = Paired(0.9, 0.3, 15, 0, 0.001, 0.3, "better")
    tests = [PairedTest(r.run, "probe", better, 0.004) for r in results if r.run.method == "lora"]
    page = comparison_page(results, tests)
    assert page.answer[0] == "lora: 0.9000"
    assert "Against probe, row by row, lora is better in 1 of 1 runs" in page.answer[1]
    curve, dots = page.sections[0].pictures
    assert curve.table.rows == [["10", "0.6000", "0.3000"], ["100", "0.6000", "0.9000"]]
    assert [row[0] for row in dots.table.rows] == ["probe", "lora"]


def test_svg_is_the_same_for_the_same_figures_and_takes_the_colour_of_the_page():
    """No date, no random id, no fixed black."""

    def draw(axes):
        line_panel(axes[0], [Line(label, [0, 1], [0, 1]) for label in LABELS], title=EVIL, x="", y="")

    first = svg(draw, words=EVIL)
    assert first == svg(draw, words=EVIL)
    assert first.startswith("<svg role=")
    assert "currentColor" in first
    assert "<script" not in first
    assert not {"#000000", "#010203"} & set(first.split('"'))


def test_panels_that_are_drawn_apart_share_no_id_and_are_read_as_one_picture():
    """A phone shows them one below the other; an id that two have would give one the clip path of the other."""

    def draw(axes):
        for panel in axes:
            line_panel(panel, [Line("", [0, 1], [0, 1])], title="", x="", y="")

    drawn = panels_svg(draw, words=EVIL, panels=2)
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert drawn.count('role="img"') == 1
    assert drawn.count('<svg aria-hidden="true"') == 2
    assert len(ids) == len(set(ids)) > 0


@pytest.mark.parametrize(
    ("name", "expected"), [("joy", "joy"), ("x" * 24, "x" * 24), ("a" * 20 + "b" * 20, "a" * 11 + "…" + "b" * 12)]
)
def test_short_keeps_both_ends(name, expected):
    """At most 24 letters."""
    assert short(name) == expected
