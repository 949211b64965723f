"""lora_scratch/runtime/ranks.py: processes that would work on different things are told so, all of them."""

from support import rank_work
from support.ranks import in_processes

from lora_scratch.errors import ConfigError


def test_processes_with_different_inputs_are_refused_and_named():
    """Averaging gradients of different rows or models would be silently wrong."""
    assert in_processes(rank_work.same, b"a", b"a") == [True, True]
    for error in in_processes(rank_work.same, b"a", b"b", b"a", size=3):
        assert isinstance(error, ConfigError)
        assert "the rows: not the same in process 1 as in process 0" in str(error)


def test_settings_that_differ_are_listed_with_both_values():
    """Five of them at most; a flag that one process does not have is said to be missing."""
    here, there = {"--rank": 8, "--alpha": 16.0}, {"--rank": 4, "--alpha": 16.0, "--bias": "all"}
    assert in_processes(rank_work.agreed, here, dict(here)) == [True, True]
    found = "--rank is 4 in process 1, 8 in process 0; --bias is 'all' in process 1, not given in process 0; start all"
    many = {f"--{letter}": 1 for letter in "abcdefg"}
    for settings, expected in ((there, found), (many, "--c is 1 in process 1, not given in process 0 and 4 more")):
        for error in in_processes(rank_work.agreed, here, settings):
            assert isinstance(error, ConfigError)
            assert expected in str(error)
