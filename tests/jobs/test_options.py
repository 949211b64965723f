"""lora_scratch/jobs/options.py: what counts as an empty value."""

import argparse

import pytest

from lora_scratch.jobs import check_given


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    made.add_argument("texts", nargs="*")
    made.add_argument("--json")
    return made


@pytest.mark.parametrize("line", [["--json", ""], ["--json", "--"]])
def test_a_flag_without_a_value_is_wrong_usage(parser, line, capsys):
    """An unset variable of the shell, and what argparse takes two dashes for."""
    with pytest.raises(SystemExit, match="2"):
        check_given(parser, parser.parse_args(line))
    assert "--json" in capsys.readouterr().err


def test_no_texts_at_all_are_no_empty_value(parser):
    """An argument that takes many may have none."""
    check_given(parser, parser.parse_args([]))
