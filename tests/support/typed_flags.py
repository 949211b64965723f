"""The flags of every script as its own parser has them, and values that no machine can take."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lora_scratch.commands import train

SCRIPTS = sorted(path.stem for path in Path(train.__file__).parent.glob("*.py"))


class _Caught(BaseException):
    """Carries a parser out of the script that made it."""


@dataclass(frozen=True)
class Flag:
    """One flag, or argument without dashes, of a script."""

    script: str
    action: argparse.Action
    parser: argparse.ArgumentParser

    def __str__(self) -> str:
        return f"{self.script} {self.name}"

    @property
    def name(self) -> str:
        """As a person types it."""
        return self.action.option_strings[0] if self.action.option_strings else self.action.dest

    @property
    def is_text(self) -> bool:
        """Any text is taken."""
        return self.action.type in (None, str) and self.action.choices is None and self.action.nargs != 0

    @property
    def is_whole_number(self) -> bool:
        """The value is counted, not measured."""
        return self.action.type is int

    def line(self, value: str) -> list[str]:
        """A command line with this value and no more than the script asks for."""
        groups = self.parser._mutually_exclusive_groups
        rivals = {each.dest for group in groups if self.action in group._group_actions for each in group._group_actions}
        words = [*self._words(self.action, value)]
        for group in groups:
            if group.required and self.action not in group._group_actions:
                words += self._words(group._group_actions[0], "x")
        for other in self.parser._actions:
            if other.required and other.nargs != "*" and other is not self.action and other.dest not in rivals:
                words += self._words(other, "x")
        return ["a text", *words] if self.script == "predict" and self.name != "--file" else words

    def _words(self, action: argparse.Action, value: str) -> list[str]:
        value = f"name={value}" if action.dest == "adapters" and self.script == "predict_bank" else value
        return [*action.option_strings[:1], *[value] * (2 if action.nargs == 2 else 1)]


def flags_of(script: str) -> Iterator[Flag]:
    """Every flag and argument of a script."""
    for action in (parser := _parser(script))._actions:
        if action.dest != "help":
            yield Flag(script, action, parser)


def _parser(script: str) -> argparse.ArgumentParser:
    def catch(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Caught(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [script])
        patch.setattr(argparse.ArgumentParser, "parse_known_args", catch)
        try:
            importlib.import_module(script).main()
        except _Caught as caught:
            found: argparse.ArgumentParser = caught.args[0]
            return found
    raise AssertionError(f"{script} has no parser")


def hostile_paths(place: Path) -> dict[str, tuple[str, str]]:
    """A path of every kind that an operating system refuses, made in `place`, and what is said of it."""
    (place / "file").touch()
    (place / "loop").symlink_to("loop")
    too_long = "File name too long"
    return {
        "a long name": ("a" * 300, too_long),
        "a long path": ("a/" * 3000, too_long),
        "a path without room for a file in it": ("a/" * 2040, too_long),
        "NUL": ("a\0b", "NUL character"),
        "a lone surrogate": ("a\ud800", "a character that no file name can have here"),
        "a link to itself": (str(place / "loop"), "Too many levels of symbolic links"),
        "through a link to itself": (str(place / "loop" / "x"), "Too many levels of symbolic links"),
        "in a file": (str(place / "file" / "x"), "Not a directory"),
    }
