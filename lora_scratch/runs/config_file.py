"""`--config FILE.yaml` (or .json): the flags of a command from a file. A flag that is typed counts more."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ..adapter.targets import nearest
from ..errors import ConfigError
from ..runtime.paths import typed_path

SUFFIXES = (".yaml", ".yml", ".json")
MOST_LETTERS, MOST_DEPTH = 2**16, 16
# What YAML 1.1 reads as another number than it looks like: 010 is 8, 1:30 is 90, 1_0 is 10.
OTHER_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9][0-9.]*_[0-9_.]*)")


def with_config(arguments: Sequence[str], *parsers: argparse.ArgumentParser) -> list[str]:
    """Return the flags of the file that `--config` names, then the arguments: the last value of a flag counts.

    Args:
        parsers: a key of the file has to be a flag of one of them.

    Raises:
        ConfigError: the file can't be read, or a key is no flag.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?")
    path = finder.parse_known_args(arguments)[0].config
    known = [option for parser in parsers for option in parser._option_string_actions]
    if not path or "--config" not in known:
        return list(arguments)
    words: list[str] = []
    for key, value in read_config(path).items():
        if key in ("config", "help"):
            raise ConfigError(f"--{key} is there", where=f"--config {path}", expected="the other flags")
        if f"--{key}" not in known:
            remedy = f"nearest: {', '.join(nearest(f'--{key}', sorted(known)))}"
            raise ConfigError(f"there is no flag --{key}", where=f"--config {path}", remedy=remedy)
        words += _words(f"--{key}", value, path)
    return [*words, *arguments]


def read_config(path: str) -> dict[str, Any]:
    """Return what a YAML or JSON file holds: flags without dashes, and their values.

    Raises:
        ConfigError: the file can't be read, or holds something else.
    """
    where = f"--config {path}"
    place: Path = typed_path(path, flag="--config")
    if place.suffix not in SUFFIXES:
        raise ConfigError(f"found {place.suffix or 'no suffix'}", where=where, expected=", ".join(SUFFIXES))
    if os.path.exists(place) and not os.path.isfile(place):  # reading a pipe would never end
        raise ConfigError("is no regular file", where=where)
    try:
        with open(place, encoding="utf-8") as file:
            text = file.read(MOST_LETTERS + 1)
        if len(text) > MOST_LETTERS:
            raise ConfigError(f"is longer than {MOST_LETTERS:,} characters", where=where)
        # JSON is YAML but for tabs, which YAML does not take between words; JSON has none inside them
        text = text.replace("\t", " ") if place.suffix == ".json" else text
        _check_structure(text, where)
        content, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"can't be read ({error})", where=where) from error
    if not isinstance(content, dict):
        raise ConfigError(f"found {type(content).__name__}", where=where, expected="a mapping of flags to values")
    if fault := _twice(node) or _other_kind(content):
        raise ConfigError(fault, where=where)
    return content


def _check_structure(text: str, where: str) -> None:
    """Refuse aliases, of which a few make millions of values, depth, which takes time with its square, and odd numbers."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError("has an alias (*name)", where=where, remedy="write the value out")
        plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if plain and OTHER_NUMBER.fullmatch(event.value):
            remedy = "write the number that is meant, or the text in quotes"
            raise ConfigError(f"YAML reads {event.value} as another number", where=where, remedy=remedy)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ConfigError(f"is nested deeper than {MOST_DEPTH}", where=where, expected="flags and their values")


def _twice(node: Any) -> str | None:
    """Return the key that is twice in one mapping, at any depth."""
    if isinstance(node, yaml.MappingNode):
        names = [str(key.value) for key, _ in node.value]
        if twice := [name for name, following in pairwise(sorted(names)) if name == following]:
            return f"{twice[0]} is there twice"
    inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    return next((fault for part in inner if (fault := _twice(part))), None) if isinstance(inner, list) else None


def _other_kind(value: Any, place: str = "") -> str | None:
    """Return where there is a value that no flag takes: a date, bytes, a set, a key that is no text."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        named = {f"{place}.{key}".strip("."): inner for key, inner in value.items()}
        faults = [f"the key {odd[0]} is no text"] if odd else [_other_kind(inner, name) for name, inner in named.items()]
    elif isinstance(value, list):
        faults = [_other_kind(inner, place) for inner in value]
    else:
        plain = value is None or type(value) in (str, bool, int, float)
        faults = [None if plain else f"{place} is a {type(value).__name__}, expected a text (in quotes), a number, ..."]
    return next((fault for fault in faults if fault), None)


def _words(flag: str, value: Any, path: str) -> Iterator[str]:
    """Yield the flag as it is typed; a list of lists is the flag several times."""
    if value is None:
        raise ConfigError(f"{flag} has no value", where=f"--config {path}", remedy="give it one, or leave the key out")
    if isinstance(value, list) and value and all(isinstance(part, list) for part in value):
        for part in value:
            yield from (flag, *map(_text, part))
    elif isinstance(value, list):
        yield from (flag, *map(_text, value))
    else:
        yield f"{flag}={_text(value)}"


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)
