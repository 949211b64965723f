"""Regular expressions over module names, from flags and from files of others, matched in linear time.

Python's `re` backtracks: `(([a-z]+)+!` on a long name never ends. RE2 has no look-around and no
back-references, and needs none: every match takes time in proportion to the name.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

from ..errors import ConfigError


def matches_whole(expression: str, name: str) -> bool:
    """Return whether the expression matches all of `name`. Raises ConfigError as `check_expression`."""
    return _compiled(expression).fullmatch(name) is not None


def matches_end(expression: str, name: str) -> bool:
    """Return whether it matches `name` or the last whole components of it, as PEFT's rank_pattern does."""
    return _compiled(rf"(?:.*\.)?(?:{expression})").fullmatch(name) is not None


def check_expression(expression: str, *, where: str) -> None:
    """Check that an expression can be used, alone and at the end of a name.

    Raises:
        ConfigError: it is none, it is too large, it has look-around or back-references, or Python reads
            it otherwise, so that the same file would be another adapter in PEFT.
    """
    if fault := _other_in_python(expression):
        expected = "one that RE2 and Python read alike"
        raise ConfigError(f"{expression!r} is no regular expression ({fault})", where=where, expected=expected)
    try:
        _compiled(expression)
        _compiled(rf"(?:.*\.)?(?:{expression})")
    except ConfigError as error:
        raise ConfigError(error.found, where=where, expected=error.expected) from error


def _other_in_python(expression: str) -> str | None:
    """Return why Python's `re` can't read it, or reads something else: a set in a set, a count without a start."""
    if "{," in expression:
        return "a count without a start"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of what looks like a set in a set
            re.compile(expression)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        return str(error)
    return None


@cache
def _compiled(expression: str) -> Any:
    import re2  # slow to import, and most adapters have no expression

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options)
    except (re2.error, ValueError, UnicodeError) as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else error
        expected = "one without look-around and back-references (RE2's syntax)"
        raise ConfigError(f"{expression!r} is no regular expression ({reason})", expected=expected) from error
