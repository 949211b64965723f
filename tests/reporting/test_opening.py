"""lora_scratch/reporting/opening.py: the picture that a page opens with, for every kind of task and number of labels."""

import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.report_pages import Outline, a_number, compared, many_labels, report, several_labels

from lora_scratch.adapter.state import ParameterCount
from lora_scratch.evaluation import render
from lora_scratch.evaluation.classes import ClassScores, Confusions
from lora_scratch.reporting import page_html, run_page, run_title
from lora_scratch.reporting.answers import PAIRS, confused_table
from lora_scratch.reporting.opening import SHOWN, opening
from lora_scratch.tasks.metrics import LabelRow


def tracks(picture):
    """Return the lines of all columns."""
    return [track for _, rows in picture.groups for track in rows]


def test_one_label_a_row_shows_the_share_of_right_rows_of_every_class():
    """Recall, as a person counts, and above it all rows."""
    found = report()
    counts = found.confusion
    right = [sum(row[i] for i, row in enumerate(matrix)) for matrix in (counts.baseline, counts.adapted)]
    assert opening(found).headline == f"{right[0]} of 40 rows right before, {right[1]} after"
    total, *classes = tracks(opening(found))
    assert (total.name, total.before, total.after) == ("all rows", right[0] / 40, right[1] / 40)
    for i, track in enumerate(classes):
        shares = [matrix[i][i] / sum(matrix[i]) for matrix in (counts.baseline, counts.adapted)]
        assert [track.before, track.after] == pytest.approx(shares)
        assert track.rows == str(sum(counts.adapted[i]))
        assert track.word == "better"


def test_several_labels_show_f1_of_every_label_that_a_row_has():
    """A label without rows has no F1: it is counted, not drawn at zero."""
    found = several_labels()
    picture = opening(found)
    scores = f"{found.baseline.macro_f1:.2f} before, {found.adapted.macro_f1:.2f} after"
    assert picture.headline == f"Mean F1 of 4 labels: {scores}"
    assert picture.sentence.endswith("1 of 4 labels is left out: no row has them.")
    assert [(track.name, track.before, track.after) for track in tracks(picture)] == [
        (new.label, old.f1, new.f1)
        for old, new in zip(found.per_class.baseline[:3], found.per_class.adapted[:3], strict=True)
    ]


def test_a_number_shows_predicted_over_true_before_and_after():
    """Two panels in one picture, with the scores in the headline and for a screen reader."""
    found = a_number()
    picture = opening(found)
    scores = f"correlation {found.baseline.headline:.2f} before, {found.adapted.headline:.2f} after"
    assert picture.headline == f"Predicted against true stars: {scores}"
    assert scores in picture.svg
    assert picture.svg.count("<svg") == 2
    assert "truth" not in [choice.get("name") for choice in Outline(page_html(run_page(found))).all("select")]


@pytest.mark.parametrize(
    ("before", "after", "word"), [(0.104, 0.103, "same"), (0.104, 0.2, "better"), (0.2, 0.104, "worse"), (0.0, 0.0, "same")]
)
def test_a_line_has_the_colour_of_the_figures_that_are_shown(before, after, word):
    """10 % and 10 % is no change, whatever comes after the point."""
    scores = ClassScores(*([LabelRow("a", p, p, p, 1000)] for p in (before, after)), [0], [0], [1.0])
    assert tracks(opening(replace(report(), labels=["a"], per_class=scores)))[1].word == word


@pytest.mark.parametrize(("count", "columns"), [(2, [3]), (10, [11]), (28, [1, 14, 14]), (40, [1, SHOWN, SHOWN])])
def test_many_labels_are_two_columns_and_more_only_the_ends(count, columns):
    """The picture stays on one screen."""
    assert [len(rows) for _, rows in opening(many_labels(count)).groups] == columns


def test_everything_only_where_it_is_everything():
    """999 of 1,000 is not 100 %, 1 of 1,000 not 0 %."""
    scores = ClassScores(*([LabelRow("a", p, p, p, 1000)] for p in (0.001, 0.999)), [0], [0], [1.0])
    assert tracks(opening(replace(report(), labels=["a"], per_class=scores)))[1].figures == ("0.1%", "99.9%")


@pytest.mark.parametrize("confusion", [True, False])
def test_page_of_two_thousand_labels_is_small_and_quick(confusion):
    """The worst and best labels, the pairs confused most often, no matrix: less than 1 MB, less than 2 s of one core."""
    found = many_labels(2000, confusion=confusion)
    start = time.process_time()
    html = page_html(run_page(found))
    assert time.process_time() - start < 2
    assert len(html.encode()) < 1e6
    assert "20 labels with the lowest F1 and 20 with the highest, of 2,000" in html
    assert len(render(found)) < 2e4


def test_confused_pairs_are_those_of_the_adapted_model_most_rows_first():
    """Ties in the order of the labels; what is right is no pair."""
    table = confused_table(Confusions([[9, 5, 0], [0, 9, 0], [0, 0, 9]], [[8, 1, 3], [0, 9, 0], [3, 0, 6]]), ["a", "b", "c"])
    assert table.rows == [["a", "c", "0", "3"], ["c", "a", "0", "3"], ["a", "b", "5", "1"]]
    assert len(confused_table(many_labels(50).confusion, ["x"] * 50).rows) == PAIRS


def test_rows_can_be_chosen_by_every_true_label_even_one_with_a_comma():
    """Several labels of a row are several choices; a row without a label has none."""
    listing = run_page(several_labels()).sections[0].listings[0]
    names = {"": [], "no label": [], "a": ["a"], "c, d": ["c, d"], "a, c, d": ["a", "c, d"], "a, b": ["a", "b"]}
    for row, (kind, labels) in zip(listing.table.rows, listing.filter.rows, strict=True):
        assert listing.filter.kinds[kind] == row[0]
        if row[2] in names:
            assert [listing.filter.labels[i] for i in labels] == names[row[2]]


def test_long_texts_are_cut_on_the_page():
    """A row may hold megabytes; report.json keeps them."""
    found = report()
    long = replace(found.changed.fixed[0], text="x" * 10**6)
    page = page_html(run_page(replace(found, changed=replace(found.changed, fixed=[long]))))
    assert len(page) < 200_000


@pytest.mark.parametrize(
    ("kind", "names", "title"),
    [
        ("one", {"model": "demo", "data": "demo"}, "One of 3 labels for each text: the demo model on the demo's texts"),
        ("one", {"model": "/a/m", "data": "b/c", "pairs": True}, "One of 3 labels for each pair of texts: m on b/c"),
        ("several", {"model": "a/b", "data": "./x.csv"}, "Any of 4 labels for each text: a/b on x.csv"),
        ("number", {"model": "a/b", "data": "c"}, "A number (stars) for each text: a/b on c"),
    ],
)
def test_title_says_task_model_and_data(kind, names, title):
    """A path is shortened to its last part; a name on the hub is whole."""
    found = {"one": report, "several": several_labels, "number": a_number}[kind]()
    assert run_title(found, **names) == f"{title}, before and after LoRA"


def test_title_names_the_method():
    """DoRA by its name, an adapter layer of one's own by its own; without an adapter it is training."""
    names = {"model": "a", "data": "b"}
    assert run_title(report(), **names, variant="dora").endswith("after DoRA")
    assert run_title(report(), **names, variant="vera").endswith("after vera")
    whole = ParameterCount(total=10, trainable=10, lora=0, head=10)
    assert run_title(report(parameters=whole), **names).endswith("after training")


def test_leaked_rows_are_told_of():
    """Test rows that stand in train too are on the page, not only in the terminal."""
    from lora_scratch.evaluation.verdict import Leaked

    (section,) = [s for s in run_page(report(leaked=Leaked(7, 0.1, 0.2))).sections if s.title == "The answer in figures"]
    assert any("stands in train too: 7" in sentence for sentence in section.sentences)


def test_picture_has_no_width_without_tasks():
    """The logits of one class: every row is right, and nothing divides by zero."""
    truth = torch.zeros(4, dtype=torch.long)
    logits = F.one_hot(truth, 2).float()
    found = compared("single_label", ["a", "b"], logits, logits, truth)
    assert [track.word for track in tracks(opening(found))] == ["same", "same"]
