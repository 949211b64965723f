import unicodedata
from dataclasses import replace

import pytest
import torch

from lora_scratch.adapter.state import ParameterCount
from lora_scratch.evaluation import Report, TrainingCost, render, render_markdown
from lora_scratch.tasks import SINGLE_LABEL, make_task


def logits(predictions):
    return 5.0 * torch.nn.functional.one_hot(torch.tensor(predictions), 3)


def report(names=("joy", "fear", "love"), **changes):
    arguments = {
        "task": make_task(SINGLE_LABEL, names),
        "parameters": ParameterCount(total=67_768_324, trainable=813_314, lora=221_184, head=592_130),
        "train": TrainingCost(250.04, 900.0, 48_000, 1_040_000, 192.0, 3 * 2**29),
        "command": "",
    }
    before, after = logits([0, 0, 0, 0, 0, 0, 1, 1]), logits([0, 1, 2, 1, 1, 2, 0, 0])
    return Report.compare(before, after, torch.tensor([0, 1, 2, 0, 1, 2, 0, 0]), **{**arguments, **changes})


def cells(line):
    return [cell.strip() for cell in line.replace("|", "  ").split("  ") if cell.strip()]


def row(text, first):
    return next(found for found in map(cells, text.splitlines()) if found and found[0] == first)


@pytest.mark.parametrize("draw", [render, render_markdown])
def test_render_contains_the_figures(draw):
    """Every figure of the report that a paper would cite, each beside its name."""
    text = draw(report())
    assert row(text, "8 rows") == ["8 rows", "always 'joy'", "baseline", "adapted", "adapted - baseline"]
    assert row(text, "accuracy") == ["accuracy", "0.5000", "0.2500", "0.8750", "+0.6250"]
    assert row(text, "macro-F1") == ["macro-F1", "0.2222", "0.1333", "0.8857", "+0.7524"]
    assert row(text, "loss (nats)")[-1] == "-3.1250"
    assert "6 rows fixed, 1 broken, p = 0.1250" in text
    assert row(text, "joy") == ["joy", "4", "0.3333", "1.0000", "0.5000", "0.7500", "0.4000", "0.8571", "+0.4571", "2", "1"]
    assert row(text, "trained: LoRA") == ["trained: LoRA", "221,184", "0.33 %"]
    assert row(text, "trained: head") == ["trained: head", "592,130", "0.87 %"]
    assert "48,000 examples (1,040,000 tokens), 250.0 s, 192.0 examples/s, peak memory 1.50 GiB" in text


@pytest.mark.parametrize("draw", [render, render_markdown])
def test_render_shows_the_linear_probe_between_the_two(draw):
    """The rung between the untouched model and the adapted one."""
    text = draw(report(probe_logits=logits([0, 0, 2, 0, 0, 2, 1, 1])))
    assert row(text, "accuracy") == ["accuracy", "0.5000", "0.2500", "0.5000", "0.8750", "+0.6250"]


@pytest.mark.parametrize("draw", [render, render_markdown])
def test_render_says_nothing_of_training_when_there_was_none(draw):
    """A report of an evaluation alone."""
    assert "Training" not in draw(report(train=None))


@pytest.mark.parametrize(
    ("p", "words"), [(0.0, "p < 1e-300"), (3.2e-41, "p = 3.2e-41"), (0.0215, "p = 0.0215"), (1.0, "p = 1.0000")]
)
def test_render_writes_p_so_that_it_is_never_zero(p, words):
    """No test gives a probability of zero: what underflowed is a bound."""
    found = report()
    found = replace(found, test=replace(found.test, p_value=p))
    assert render(found).count(words) == 1


def test_render_writes_trained_biases_when_there_are_some():
    """The parts add up to what is trained."""
    found = report(parameters=ParameterCount(total=1000, trainable=60, lora=30, head=20, bias=10))
    assert row(render(found), "trained: biases") == ["trained: biases", "10", "1.00 %"]


def test_render_is_plain_ascii_but_for_labels():
    """It can be pasted anywhere."""
    assert render(report()).isascii()


def terminal_columns(line):
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


@pytest.mark.parametrize("names", [("joy", "fear", "love"), ("x" * 300, "喜び" * 30, "é\n\x1b[31m")])
def test_render_keeps_to_100_columns_with_columns_aligned(names):
    """Labels that are long, wide or hold control characters neither break a line nor push the figures aside."""
    found = report(names, probe_logits=logits([0] * 8), parameters=ParameterCount(7 * 10**10, 3, 2, 1))
    text = render(found)
    lines = text.splitlines()
    assert max(map(terminal_columns, lines)) <= 100
    assert "\x1b" not in text
    header = next(i for i, line in enumerate(lines) if line.startswith("class"))
    assert len({terminal_columns(line) for line in lines[header : header + 5]}) == 1


def test_render_markdown_leaves_a_label_as_it_is_written():
    """A label with a bar in it does not add a column, and one with a tag or a star is no markup."""
    text = render_markdown(report(("a|b", "<b>*fear", "love")))
    assert "| a\\|b | 4 |" in text
    assert "| &lt;b>\\*fear | 2 |" in text


def test_steps_that_were_skipped_are_said():
    """Some are usual in fp16; many are no training."""
    assert "skipped" not in render(report())
    cost = replace(report().train, skipped_steps=1200)
    text = " ".join(render(replace(report(), train=cost)).split())
    assert "peak memory 1.50 GiB; 1,200 steps were skipped, not finite" in text
