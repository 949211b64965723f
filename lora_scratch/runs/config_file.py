"""`--config FILE.yaml` (or .json): the flags of a command from a file. A flag that is typed counts more."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..adapter.targets import nearest
from ..errors import ConfigError
from ..runtime.paths import typed_path

SUFFIXES = (".yaml", ".yml", ".json")


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
        if f"--{key}" not in known or key in ("config", "help"):
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
    try:
        text = place.read_text(encoding="utf-8")
        # JSON is YAML but for tabs, which YAML does not take between words; JSON has none inside them
        text = text.replace("\t", " ") if place.suffix == ".json" else text
        content, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        json.dumps(content, default=str)  # refuses what refers to itself
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"can't be read ({error})", where=where) from error
    if not isinstance(content, dict):
        raise ConfigError(f"found {type(content).__name__}", where=where, expected="a mapping of flags to values")
    names = [key.value for key, _ in node.value]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{twice[0]} is there twice", where=where)
    return content


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
    return json.dumps(value, default=str) if isinstance(value, bool | dict) else str(value)
