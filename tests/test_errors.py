"""lora_scratch/errors.py: one tree, one line, and the data still in the exception."""

import inspect

import pytest

from lora_scratch import errors
from lora_scratch.errors import (
    LONGEST_LINE,
    AdapterFileError,
    BaseMismatchError,
    ConfigError,
    DataError,
    LoraScratchError,
    MergeError,
    TargetError,
)

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found"),
        ({"where": "file:3"}, "file:3: found"),
        ({"expected": "a label"}, "found; expected a label"),
        ({"remedy": "add one"}, "found; add one"),
        ({"where": "file:3", "expected": "a label", "remedy": "add one"}, "file:3: found; expected a label; add one"),
    ],
    ids=str,
)
def test_message_is_where_found_expected_remedy(options, message):
    """Each clause only where there is one, and each still an attribute."""
    error = DataError("found", **options)
    assert str(error) == message
    assert (error.found, error.where) == ("found", options.get("where", ""))
    assert (error.expected, error.remedy) == (options.get("expected", ""), options.get("remedy", ""))


def test_message_is_one_line_whatever_goes_in():
    """A script prints it on stderr and stops: no break, no run of blanks."""
    assert str(DataError("a\nb\t c", where="x\r\ny", remedy="do\n\nthis")) == "x y: a b c; do this"


@pytest.mark.parametrize("raw", ["\x1b[2J", "\x00", "\u202e", "\udcff", "\u2028"], ids=ascii)
def test_message_holds_no_letter_that_drives_a_terminal(raw):
    """Names of tensors, columns and files come from others: what is not printable is shown as its escape."""
    message = str(AdapterFileError([f"a{raw}b is unexpected"], where=f"place{raw}"))
    assert message.isprintable()
    assert raw.isspace() or "a\\" in message


def test_message_stays_readable_however_much_is_wrong():
    """A megabyte of names is cut in the middle; `problems` has them all."""
    error = AdapterFileError([f"tensor {i} is missing" for i in range(10**5)], where="w", remedy="do this")
    assert len(str(error)) < LONGEST_LINE + 100
    assert str(error).startswith("w: tensor 0 is missing; ")
    assert str(error).endswith("tensor 99999 is missing; do this")
    assert len(error.problems) == 10**5


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_is_of_the_tree_and_documented(cls):
    """`except LoraScratchError` catches all of them."""
    assert issubclass(cls, LoraScratchError)
    assert inspect.getdoc(cls)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [(ConfigError, ValueError), (DataError, ValueError), (MergeError, RuntimeError), (AdapterFileError, ValueError)],
)
def test_error_is_also_the_builtin_that_a_caller_would_expect(cls, builtin):
    """Code that knows nothing of the project catches them too."""
    assert issubclass(cls, builtin)


def test_target_error_carries_what_there_was_to_choose_from():
    """`available` holds the names, for a program to offer."""
    error = TargetError("no module is called 'q'", available=["q_lin", "k_lin"], where="--targets", expected="e", remedy="r")
    assert error.available == ("q_lin", "k_lin")
    assert str(error) == "--targets: no module is called 'q'; expected e; r"
    assert isinstance(error, ConfigError)


def test_adapter_file_error_lists_every_problem():
    """All at once, each apart in `problems`."""
    error = BaseMismatchError(["a is missing", "b is unexpected"], where="w", expected="e", remedy="r")
    assert error.problems == ("a is missing", "b is unexpected")
    assert str(error) == "w: a is missing; b is unexpected; expected e; r"
    assert isinstance(error, AdapterFileError)
