"""The flags of every command as its own parser has them, and values that no machine can take."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from transformers import HfArgumentParser

import lora_scratch.__main__ as by_name
from lora_scratch.runs import CommandParser

COMMANDS = {name: module for group in by_name.COMMANDS.values() for name, (module, _) in group.items()}


def command(name: str) -> ModuleType:
    """The module of the command."""
    return importlib.import_module(f"lora_scratch.commands.{COMMANDS[name]}")


class _Caught(BaseException):
    """Carries a parser out of the command that made it."""


@dataclass(frozen=True)
class Flag:
    """One flag, or argument without dashes, of a command, and the job of the command that has it, if it has jobs."""

    command: str
    action: argparse.Action
    parser: argparse.ArgumentParser
    job: str = ""

    def __str__(self) -> str:
        return " ".join([self.command, *([self.job] if self.job else []), self.name])

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
        """A command line with this value and no more than the command asks for."""
        words = [*([self.job] if self.job else [])]
        groups = self.parser._mutually_exclusive_groups
        rivals = {entry.dest for group in groups if self.action in group._group_actions for entry in group._group_actions}
        for group in groups:
            if group.required and self.action not in group._group_actions:
                words += self._words(group._group_actions[0], "x")
        for other in self.parser._actions:
            if other is self.action:
                words += self._words(other, value)
            elif self._is_needed(other) and other.dest not in rivals:
                words += self._words(other, "x")
        return words

    def _is_needed(self, other: argparse.Action) -> bool:
        if self.command != "predict":
            return other.required
        with_bank = self.action.dest in ("adapters", "chunk")
        if other.dest == "file":
            return with_bank
        return other.dest in (("adapters",) if with_bank else ("adapter", "texts" if self.action.dest != "file" else ""))

    def _words(self, action: argparse.Action, value: str) -> list[str]:
        value = f"name={value}" if action.dest == "adapters" and self.command == "predict" else value
        return [*action.option_strings[:1], *[value] * (2 if action.nargs == 2 else 1)]


def flags_of(name: str) -> Iterator[Flag]:
    """Every flag and argument of a command, and of its jobs."""
    for action in (parser := _parser(name))._actions:
        if isinstance(action, argparse._SubParsersAction):
            for job, inner in action.choices.items():
                yield from (Flag(name, flag, inner, job) for flag in inner._actions if flag.dest != "help")
        elif action.dest != "help":
            yield Flag(name, action, parser)


def _parser(name: str) -> argparse.ArgumentParser:
    def catch(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Caught(parser)

    module = command(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [name])
        for method in ("parse_known_args", "parse_known_intermixed_args"):
            patch.setattr(CommandParser, method, catch)
            patch.setattr(HfArgumentParser, method, catch)
        try:
            module.main()
        except _Caught as caught:
            parser: argparse.ArgumentParser = caught.args[0]
            return parser
    raise AssertionError(f"{name} has no parser")


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
