"""lora_scratch/adapter/expressions.py: expressions of strangers take time in proportion to the name."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.alarm import no_hang

from lora_scratch.adapter import LoRAConfig
from lora_scratch.adapter.config import look_up
from lora_scratch.adapter.expressions import check_expression, matches_end, matches_whole
from lora_scratch.errors import ConfigError

NAME = "distilbert.transformer.layer.0.attention.q_lin"
HARMLESS = [
    r"q_lin",
    r".*\.attention\.(q|v)_lin",
    r"layer\.[0-5]\..*",
    r"(?i)Q_LIN",
    r"q_lin|v_lin",
    r".{3,60}",
    r"\w+\.layer\.0.*",
]


@pytest.mark.parametrize("expression", HARMLESS)
@pytest.mark.parametrize("name", [NAME, "q_lin", "layer.0.x", "vq_lin"])
def test_an_expression_matches_what_peft_matches(expression, name):
    """PEFT: `re.match(rf"(.*\\.)?({key})$", name)`, and `re.fullmatch` for target_modules."""
    if not expression.startswith("(?i)"):  # Python allows flags at the start alone
        assert matches_end(expression, name) == (re.match(rf"(.*\.)?({expression})$", name) is not None)
    assert matches_whole(expression, name) == (re.fullmatch(expression, name) is not None)


@pytest.mark.parametrize("expression", [r"(([a-z_.0-9])+)+!", r"(a|a)*b", r"(.*)*x", r"((a?){60})a{60}", r"(\w+\.?)+\d!"])
def test_an_expression_that_backtracks_for_ever_in_python_is_quick(expression):
    """A file of a stranger must not hang `predict`."""
    with no_hang(within_s=5):
        assert not matches_end(expression, "a" * 200)


@pytest.mark.parametrize(
    "expression",
    [
        "(",
        "a{5000}",
        "x{1000}" * 1000,
        "(?=a)b",
        r"(a)\1",
        "*",
        "[z-a]",
        "\ud800",
        "a\0(",
        "[[:alpha:]]_lin",
        "a{,2}",
        r"\p{L}+",
        r"\C",
        "(" * 500 + "q" + ")" * 500,
    ],
    ids=range(14),
)
def test_what_is_no_usable_expression_is_one_line_that_names_the_place(expression):
    """Never a traceback, from a flag or from a file."""
    with no_hang(within_s=5), pytest.raises(ConfigError, match=r"^rank_pattern: .* is no regular expression") as error:
        check_expression(expression, where="rank_pattern")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="rank_pattern"):
        LoRAConfig(rank_pattern={expression: 2})


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_an_expression_or_a_typed_error(text):
    """The door that reads files of strangers."""
    start = time.monotonic()
    try:
        check_expression(text, where="targets")
        look_up({text: 1}, NAME, 2)
    except ConfigError:
        pass
    assert time.monotonic() - start < 5
