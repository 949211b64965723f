import itertools

import pytest
import torch

from lora_scratch.adapter.state import ParameterCount
from lora_scratch.errors import ConfigError, DataError
from lora_scratch.evaluation import Report, changed_rows, judge, length_slices, render, render_markdown, require
from lora_scratch.evaluation.classes import class_scores
from lora_scratch.evaluation.verdict import Constant, Leaked, without_leaked_rows
from lora_scratch.tasks import SINGLE_LABEL, Interval, SingleLabelMetrics, make_task

TASK = make_task(SINGLE_LABEL, ("no", "yes"))


def logits(answers):
    return 3.0 * torch.nn.functional.one_hot(torch.tensor(answers), 2)


BEFORE, AFTER, LABELS = logits([0, 0, 0, 1, 1, 0]), logits([0, 1, 1, 0, 1, 0]), torch.tensor([0, 1, 1, 1, 0, 0])
TEXTS = ["a", "bb", "c", "<script>", "e", "f"]  # rows 1 and 2 are fixed, row 3 is broken


def metrics(accuracy):
    return SingleLabelMetrics(accuracy=accuracy, macro_f1=0.5, loss=0.7, n=100)


@pytest.mark.parametrize(("word", "change"), [("better", 0.25), ("worse", -0.25), ("not shown", 0.02)])
def test_judge_says_the_word_of_the_paired_test_with_its_figures(word, change):
    """The word comes from the test, not from the sign of the change."""
    verdict = judge(metrics(0.5), metrics(0.5 + change), word, Interval(change, -0.01, 0.3))
    assert verdict.word == word
    assert f"{change:+.4f} (95% interval -0.0100 to +0.3000)" in verdict.sentence
    assert word in verdict.sentence


@pytest.mark.parametrize(
    ("word", "against", "expected"),
    [
        ("better", "better", "better"),
        ("better", "not shown", "not shown"),
        ("better", "worse", "not shown"),
        ("worse", "worse", "worse"),
        ("not shown", "better", "not shown"),
    ],
)
def test_better_has_to_beat_the_answer_that_reads_no_text_too(word, against, expected):
    """A model that answers `good` to every row beats a random head, and is worth nothing."""
    constant = Constant("always 'good'", metrics(0.95), against)
    change = Interval(-0.1, -0.2, -0.05) if word == "worse" else Interval(0.45, 0.3, 0.6)
    verdict = judge(metrics(0.5), metrics(0.95), word, change, constant)
    assert verdict.word == expected
    assert ("reads no text, always 'good' (accuracy 0.9500)" in verdict.sentence) == (word != expected)


@pytest.mark.parametrize(
    ("word", "change", "expected", "sentence"),
    [
        ("better", Interval(-0.2, -0.3, -0.1), "not shown", "the paired test says better, but the accuracy became worse"),
        ("worse", Interval(0.2, 0.1, 0.3), "worse", "in the paired test, though its accuracy is higher"),
    ],
)
def test_better_is_not_said_where_the_score_became_worse(word, change, expected, sentence):
    """Errors of a number can become smaller while its correlation falls: neither alone is `better`."""
    verdict = judge(metrics(0.5), metrics(0.5 + change.value), word, change)
    assert verdict.word == expected
    assert sentence in verdict.sentence


def test_a_model_that_says_the_commonest_label_to_every_row_is_not_better():
    """95 rows of one label, 5 of the other: always the first is 45 rows better than a coin, and reads nothing."""
    labels = (torch.arange(100) >= 95).long()
    coin, always = logits([0, 1] * 50), logits([0] * 100)
    counts = ParameterCount(total=100, trainable=3, lora=2, head=1)
    compared = Report.compare(coin, always, labels, task=TASK, parameters=counts, command="")
    assert compared.test.p_value < 1e-6
    assert compared.verdict.word == "not shown"
    assert (compared.constant.answer, compared.constant.metrics.accuracy) == ("always 'no'", 0.95)
    assert "always 'no'" in render(compared)
    with pytest.raises(ConfigError, match="--require: the verdict is 'not shown'"):
        require(compared.verdict.word, "better")


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
    found = changed_rows(TASK, BEFORE, AFTER, LABELS)
    assert [(row.row, row.label, row.before, row.after) for row in found.fixed] == [
        (1, "yes", "no", "yes"),
        (2, "yes", "no", "yes"),
    ]
    assert [(row.row, row.before, row.after) for row in found.broken] == [(3, "yes", "no")]


def test_changed_rows_are_at_most_a_thousand_of_each_kind():
    """A report of a large data set stays one that can be opened."""
    found = changed_rows(TASK, BEFORE[1:2].repeat(1500, 1), AFTER[1:2].repeat(1500, 1), LABELS[1:2].repeat(1500))
    assert (len(found.fixed), found.fixed[0].text, found.broken) == (1000, None, [])


def test_class_scores_count_by_the_true_label():
    """By hand: row 0 of class 0 is broken, rows 2 and 3 of classes 1 and 2 are fixed; class 3 has no row."""
    labels = torch.tensor([0, 0, 1, 2])
    before, after = (torch.eye(4)[torch.tensor(said)] for said in ([0, 0, 0, 0], [3, 0, 1, 2]))
    scores = class_scores(make_task(SINGLE_LABEL, "abcd"), before, after, labels)
    assert (scores.fixed, scores.broken) == ([0, 1, 1, 0], [1, 0, 0, 0])
    assert scores.p_holm == [1.0] * 4


def test_length_slices_add_up_to_the_whole():
    """Every row is in exactly one slice, from short to long; fixed and broken are McNemar's."""
    generator = torch.Generator().manual_seed(0)
    labels, lengths = torch.randint(2, (200,), generator=generator), torch.randint(3, 60, (200,), generator=generator)
    before, after = torch.randn(2, 200, 2, generator=generator)
    found = length_slices(TASK, before, after, labels, lengths)
    assert len(found) == 4
    assert sum(each.n for each in found) == 200
    assert all(a.longest < b.shortest for a, b in itertools.pairwise(found))
    accuracy = (after.argmax(-1) == labels).double().mean().item()
    assert sum(each.n * each.adapted for each in found) / 200 == pytest.approx(accuracy)
    fixed = (after.argmax(-1) == labels) & (before.argmax(-1) != labels)
    assert sum(each.fixed for each in found) == int(fixed.sum())


def test_length_slices_of_six_rows_are_those_worked_by_hand():
    """Lengths 2, 2, 2, 2, 9, 9: the quartiles are 2, 2 and 7.25, so two slices; the first has 1 then 3 right of 4."""
    first, second = length_slices(TASK, BEFORE, AFTER, LABELS, torch.tensor([2, 2, 9, 9, 2, 2]))
    assert (first.shortest, first.longest, first.n, first.baseline, first.adapted) == (2, 2, 4, 0.5, 0.75)
    assert (second.n, second.baseline, second.adapted, second.fixed, second.broken) == (2, 0.5, 0.5, 1, 1)


def report(*, task=TASK, **changes):
    parameters = ParameterCount(total=100, trainable=3, lora=2, head=1)
    return Report.compare(BEFORE, AFTER, LABELS, task=task, parameters=parameters, command="", **changes)


def test_report_holds_verdict_differences_and_calibration():
    """What is always there, and what comes with texts, lengths and validation rows."""
    plain = report()
    assert plain.verdict.word == "not shown"
    assert plain.as_json()["difference"].keys() == {"accuracy", "macro_f1", "loss"}
    assert plain.as_json()["calibration"].keys() == {"baseline", "adapted"}
    assert "lengths" not in plain.as_json()
    full = report(texts=TEXTS, lengths=torch.arange(6) + 2, task=TASK.fitted(AFTER, LABELS))
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


def test_the_score_is_given_without_the_rows_that_stand_in_train_too():
    """Rows 0 and 2 leaked: only the second of four counts against the adapted model."""
    task = make_task("single_label", ("a", "b"))
    labels = torch.tensor([0, 1, 0, 1])
    before, after = torch.tensor([[0.0, 1]]).repeat(4, 1), torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert without_leaked_rows(task, before, after, labels, [1, 3]) == Leaked(rows=2, baseline=1.0, adapted=0.5)
    assert without_leaked_rows(task, before, after, labels, [0, 1, 2, 3]) is None
