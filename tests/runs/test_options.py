"""lora_scratch/runs/flags.py: what counts as an empty value, as a flag, and as a mapping."""

import argparse
from dataclasses import fields

import pytest

from lora_scratch.adapter import LoRAConfig
from lora_scratch.runs import TRAIN_OPTIONS, check_given, flag_parser, parse_flags


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    made.add_argument("texts", nargs="*")
    made.add_argument("--json")
    made.add_argument("--add", action="append", nargs="+")
    return made


@pytest.mark.parametrize("line", [["--json", ""], ["--json", "--"], ["--add", "x", "--add", "y", ""]])
def test_a_flag_without_a_value_is_wrong_usage(parser, line, capsys):
    """An unset variable of the shell, and what argparse takes two dashes for."""
    with pytest.raises(SystemExit, match="2"):
        check_given(parser, parser.parse_args(line))
    assert line[0] in capsys.readouterr().err.split("error:")[1]


def test_no_texts_at_all_are_no_empty_value(parser):
    """An argument that takes many may have none."""
    check_given(parser, parser.parse_args([]))


def test_a_pattern_is_given_as_json(capsys):
    """What is none is wrong usage, with an example."""
    parser = flag_parser([LoRAConfig], "")
    (config,) = parse_flags(parser, ["--rank_pattern", '{"query": 2}', "--alpha_pattern", '{"1.key": 0.5}'])
    assert (config.rank_pattern, config.alpha_pattern) == ({"query": 2}, {"1.key": 0.5})
    for text in ("query=2", "[1]", "ranks.json"):
        with pytest.raises(SystemExit, match="2"):
            parse_flags(parser, ["--rank_pattern", text])
        assert f"found {text!r}; expected JSON such as" in capsys.readouterr().err


def test_a_flag_is_written_in_full(capsys):
    """A part of its name would be a guess."""
    with pytest.raises(SystemExit, match="2"):
        parse_flags(flag_parser([LoRAConfig], ""), ["--ran", "4"])
    assert "unknown: --ran 4" in capsys.readouterr().err


def test_every_dataclass_of_train_is_a_group_of_its_flags():
    """The title is in the class, so no flag is left among the untitled ones."""
    parser = flag_parser(TRAIN_OPTIONS, "")
    titles = {group.title: {action.dest for action in group._group_actions} for group in parser._action_groups}
    for kind in TRAIN_OPTIONS:
        assert titles[kind._argument_group_name] == {entry.name for entry in fields(kind)}
