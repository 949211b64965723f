"""One exception tree. An exception carries its data, and its message is one line a person can act on.

Every error of the project says where it happened, what was found, what was expected and what to do. The scripts print
`str(error)` and exit with 1, so nothing that a user can cause ends in a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_LINE = 8000  # characters of a message; what is left out stands in the middle, and `problems` has all of it
INTERRUPTED = 130  # 128 + SIGINT, what a shell expects


class LoraScratchError(Exception):
    """Base of all errors of the project: `where: found; expected ...; remedy`, on one line.

    Args:
        found: what is wrong, as a clause.
        where: the file, row, flag, module or tensor it is about.
        expected: what would have been right.
        remedy: what the person can do now.
    """

    def __init__(self, found: str, *, where: str = "", expected: str = "", remedy: str = "") -> None:
        self.where = where
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(_one_line(found, where=where, expected=expected, remedy=remedy))


class ConfigError(LoraScratchError, ValueError):
    """A setting that can't be honoured: rank 0, an unknown schedule, a target that names no module."""


class TargetError(ConfigError):
    """A pattern that matches no module. `available` holds the names that could have been meant."""

    def __init__(
        self, found: str, *, available: Sequence[str] = (), where: str = "", expected: str = "", remedy: str = ""
    ) -> None:
        self.available = tuple(available)
        super().__init__(found, where=where, expected=expected, remedy=remedy)


class MergeError(LoraScratchError, RuntimeError):
    """Merging twice, unmerging what is not merged, or merging an update that is not finite."""


class DataError(LoraScratchError, ValueError):
    """A data file or row that can't be used. `where` is `path:line` when a row is at fault."""


class ModelError(LoraScratchError):
    """A base model that can't be loaded: unreachable hub, missing folder, unknown architecture."""


class AdapterFileError(LoraScratchError, ValueError):
    """An adapter folder that is not exactly what it should be. `problems` lists everything wrong at once."""

    def __init__(self, problems: Sequence[str], *, where: str = "", expected: str = "", remedy: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems), where=where, expected=expected, remedy=remedy)


class BaseMismatchError(AdapterFileError):
    """The adapter was trained on other base weights than those it is being loaded into."""


class WorldError(LoraScratchError, RuntimeError):
    """Processes that work together can't reach each other, or one of them has gone."""


class TrainingError(LoraScratchError, RuntimeError):
    """Training that can't go on: nothing to train, weights that do not move, weights that should not have moved."""


class CheckpointError(LoraScratchError, ValueError):
    """A checkpoint that is damaged, or that belongs to another run than the one that wants to go on from it."""


class Interrupted(KeyboardInterrupt):
    """A signal has asked to stop, and what had been done is saved. `signal_number` gives the exit code, 128 more."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(message)


def _one_line(found: str, *, where: str, expected: str, remedy: str) -> str:
    clauses = [f"{where}: {found}" if where else found, f"expected {expected}" if expected else "", remedy]
    return printable("; ".join(clause for clause in clauses if clause))


def printable(text: str) -> str:
    """The text on one line of bounded length. Names come from files of others, and some would drive the terminal."""
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} [...] {text[-LONGEST_LINE // 2 :]}"
    letters = " ".join(text.split())
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in letters)
