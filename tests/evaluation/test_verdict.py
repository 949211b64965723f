import itertools

import pytest
import torch

from lora_scratch.adapter.state import ParameterCount
from lora_scratch.errors import ConfigError, DataError
from lora_scratch.evaluation import (
    Report,
    changed_by_class,
    changed_rows,
    judge,
    length_slices,
    render,
    render_markdown,
    require,
)
from lora_scratch.tasks import Interval, McNemar, Metrics


def logits(answers):
    return 3.0 * torch.nn.functional.one_hot(torch.tensor(answers), 2)


BEFORE, AFTER, LABELS = logits([0, 0, 0, 1, 1, 0]), logits([0, 1, 1, 0, 1, 0]), torch.tensor([0, 1, 1, 1, 0, 0])
TEXTS = ["a", "bb", "c", "<script>", "e", "f"]  # rows 1 and 2 are fixed, row 3 is broken


@pytest.mark.parametrize(
    ("fixed", "broken", "p", "word"),
    [(30, 5, 0.0001, "better"), (5, 30, 0.0001, "worse"), (7, 2, 0.18, "not shown"), (20, 10, 0.05, "not shown")],
)
def test_judge_says_what_mcnemar_shows(fixed, broken, p, word):
    """Better or worse only below 0.05; the sentence carries the figures."""
    metrics = (Metrics(0.5, 0.5, 0.7, 100), Metrics(0.5 + (fixed - broken) / 100, 0.5, 0.6, 100))
    found = judge(*metrics, McNemar(fixed, broken, p), Interval((fixed - broken) / 100, -0.01, 0.3))
    assert found.word == word
    assert f"{(fixed - broken) / 100:+.4f} (95% interval -0.0100 to +0.3000)" in found.sentence
    assert word in found.sentence


@pytest.mark.parametrize(
    ("word", "requirement", "met"),
    [
        ("better", "better", True),
        ("not shown", "better", False),
        ("worse", "better", False),
        ("better", "not_worse", True),
        ("not shown", "not_worse", True),
        ("worse", "not_worse", False),
    ],
)
def test_require_passes_exactly_the_verdicts_that_meet_it(word, requirement, met):
    """What a pipeline stops at."""
    if met:
        require(word, requirement)
    else:
        with pytest.raises(ConfigError, match=f"--require: the verdict is '{word}'; expected better"):
            require(word, requirement)


def test_require_refuses_a_requirement_that_there_is_not():
    """A typing error is not a pass."""
    with pytest.raises(ConfigError, match="--require: found 'bettter'; expected better or not_worse"):
        require("better", "bettter")


def test_changed_rows_are_those_that_one_model_alone_has_right():
    """By hand: rows 1 and 2 fixed, row 3 broken, with number, truth and both answers."""
    found = changed_rows(BEFORE, AFTER, LABELS, ("no", "yes"))
    assert [(row.row, row.label, row.before, row.after) for row in found.fixed] == [
        (1, "yes", "no", "yes"),
        (2, "yes", "no", "yes"),
    ]
    assert [(row.row, row.before, row.after) for row in found.broken] == [(3, "yes", "no")]


def test_changed_rows_are_at_most_a_thousand_of_each_kind():
    """A report of a large data set stays one that can be opened."""
    found = changed_rows(BEFORE[1:2].repeat(1500, 1), AFTER[1:2].repeat(1500, 1), LABELS[1:2].repeat(1500), ("no", "yes"))
    assert (len(found.fixed), found.fixed[0].text, found.broken) == (1000, None, [])


def test_changed_by_class_counts_by_the_true_label():
    """By hand: row 0 of class 0 is broken, rows 2 and 3 of classes 1 and 2 are fixed; class 3 has no row."""
    labels = torch.tensor([0, 0, 1, 2])
    before, after = (torch.eye(4)[torch.tensor(said)] for said in ([0, 0, 0, 0], [3, 0, 1, 2]))
    assert changed_by_class(before, after, labels) == {"fixed": [0, 1, 1, 0], "broken": [1, 0, 0, 0]}


def test_length_slices_add_up_to_the_whole():
    """Every row is in exactly one slice, from short to long; fixed and broken are McNemar's."""
    generator = torch.Generator().manual_seed(0)
    labels, lengths = torch.randint(2, (200,), generator=generator), torch.randint(3, 60, (200,), generator=generator)
    before, after = torch.randn(2, 200, 2, generator=generator)
    found = length_slices(before, after, labels, lengths)
    assert len(found) == 4
    assert sum(each.n for each in found) == 200
    assert all(a.longest < b.shortest for a, b in itertools.pairwise(found))
    accuracy = (after.argmax(-1) == labels).double().mean().item()
    assert sum(each.n * each.adapted for each in found) / 200 == pytest.approx(accuracy)
    fixed = (after.argmax(-1) == labels) & (before.argmax(-1) != labels)
    assert sum(each.fixed for each in found) == int(fixed.sum())


def test_length_slices_of_six_rows_are_those_worked_by_hand():
    """Lengths 2, 2, 2, 2, 9, 9: the quartiles are 2, 2 and 7.25, so two slices; the first has 1 then 3 right of 4."""
    first, second = length_slices(BEFORE, AFTER, LABELS, torch.tensor([2, 2, 9, 9, 2, 2]))
    assert (first.shortest, first.longest, first.n, first.baseline, first.adapted) == (2, 2, 4, 0.5, 0.75)
    assert (second.n, second.baseline, second.adapted, second.fixed, second.broken) == (2, 0.5, 0.5, 1, 1)


def report(**changes):
    parameters = ParameterCount(total=100, trainable=3, lora=2, head=1)
    return Report.compare(BEFORE, AFTER, LABELS, names=("no", "yes"), parameters=parameters, command="", **changes)


def test_report_holds_verdict_differences_and_calibration():
    """What is always there, and what comes with texts, lengths and validation rows."""
    plain = report()
    assert plain.verdict.word == "not shown"
    assert plain.as_json()["difference"].keys() == {"accuracy", "macro_f1", "loss"}
    assert plain.as_json()["calibration"].keys() == {"baseline", "adapted"}
    assert "lengths" not in plain.as_json()
    full = report(texts=TEXTS, lengths=torch.arange(6) + 2, validation=(AFTER, LABELS))
    assert [row.text for row in full.changed.fixed] == ["bb", "c"]
    assert full.changed.broken[0].text == "<script>"
    assert full.calibration.tempered.loss < full.adapted.loss  # the same rows here, so it has to be
    assert sum(part.n for part in full.lengths) == 6


@pytest.mark.parametrize("draw", [render, render_markdown])
def test_render_shows_the_verdict_first(draw):
    """The answer, then why."""
    assert draw(report()).startswith("A difference between the adapted model and the frozen baseline is not shown")


def test_render_shows_some_changed_rows_on_one_line_each():
    """A text with line breaks (shown as a space) or a megabyte in it stays one line of 100 columns."""
    text = render(report(texts=["a", "b\n\x1b[31mc", "x" * 10**6, "喜び" * 100, "e", "f"], lengths=torch.arange(6) + 2))
    assert "Rows fixed (2 of 2)\n  1: no -> yes  b ?[31mc\n  2: no -> yes  xxx" in text
    assert "Rows broken (1 of 1)\n  3: yes -> no (truth yes)  喜び" in text
    assert max(map(len, text.splitlines())) <= 100


def test_render_markdown_keeps_the_rows_to_itself():
    """A model card is published, and the rows may not be."""
    assert "<script>" not in render_markdown(report(texts=TEXTS))


@pytest.mark.parametrize("extra", [{"texts": ["a"]}, {"lengths": torch.ones(5)}])
def test_report_refuses_texts_or_lengths_of_other_rows(extra):
    """Row 3 of one list is not row 3 of another."""
    with pytest.raises(DataError, match=r"report: \d (texts|lengths) for 6 rows"):
        report(**extra)
