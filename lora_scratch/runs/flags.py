"""From the command line to options: parsers, flags that several commands share, and what no flag takes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn, get_origin

from transformers import HfArgumentParser

from ..errors import ConfigError, printable
from ..runtime.json_text import parse_json
from ..runtime.paths import typed_path
from .config_file import with_config
from .presets import BASIC, PRESETS
from .resume import recorded_flags, recorded_run

SPLITS = ("train", "validation", "test")
HUB_NAMES = frozenset({"dataset", "model"})  # flags whose value is a path, or the name of something on the hub
READ = HUB_NAMES | {
    "adapter",
    "add",
    "average",
    "config",
    "data",
    "file",
    "heads_from",
    "resume",
    "run",
    "start_from",
    "subtract",
}
WRITTEN = frozenset({"figures", "html", "json", "output", "output_dir"})
PATHS = READ | WRITTEN  # every flag or argument whose value is a path
COLUMN_FLAGS = ("text_column", "pair_column", "label_column")
LARGEST = 2**63 - 1  # the largest number that torch counts with

# Flags that several commands have: the title in --help, and what argparse is told.
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("adapter", {"help": "base model, if not the one the adapter names"}),
    "labels": (
        "adapter",
        {
            "nargs": "+",
            "metavar": "NAME",
            "help": "the labels in the order of the outputs, for a folder that does not record them, as PEFT's",
        },
    ),
    "split": ("rows", {"choices": SPLITS, "help": "which rows (default: %(default)s)"}),
    "dataset": ("rows", {"help": "other rows than those the adapter was trained with"}),
    "text_column": ("rows", {"metavar": "NAME", "help": "column of the text in --dataset (default: as in the training)"}),
    "pair_column": ("rows", {"metavar": "NAME", "help": "column of the second text in --dataset"}),
    "label_column": ("rows", {"nargs": "+", "metavar": "NAME", "help": "column of the label, or one for every label"}),
    "limit_eval": ("rows", {"type": int, "help": "use only this many validation rows and test rows"}),
    "precision": ("compute", {"help": "fp32, bf16, fp16 or auto (default: as trained)"}),
    "device": ("compute", {"default": "auto", "help": "cpu, cuda or auto (default)"}),
    "plain": (
        "compute",
        {"action": "store_true", "help": "with padding, by the model's own code: slower, equal to rounding"},
    ),
    "fsdp": (
        "compute",
        {"action": "store_true", "help": "split the base over the processes, for one too large for one device"},
    ),
    "json": ("results", {"metavar": "FILE", "help": "write every figure to this file too"}),
    "html": ("results", {"metavar": "FILE", "help": "draw a page to this file too"}),
}


class CommandParser(argparse.ArgumentParser):
    """A parser of flags in full, with the lines of its description as they are written."""

    def __init__(self, **settings: Any) -> None:
        usual = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**{**usual, **settings})

    def error(self, message: str) -> NoReturn:
        """Exit with 2. For the old flag --adapter, name the new form."""
        old = message.startswith("unrecognized arguments: --adapter")
        super().error(printable(f"{message}; the adapter is named first, without a flag" if old else message))

    def group(self, title: str) -> argparse._ArgumentGroup:
        """Return the group of flags with this title in --help, a new one if there is none yet."""
        titled = (group for group in self._action_groups if group.title == title)
        return next(titled, None) or self.add_argument_group(title)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description with its lines as they are written, and the default of every flag."""


def parse(
    kinds: Sequence[Any], description: str, *, arguments: Sequence[str] | None = None, recipe: str = BASIC
) -> tuple[Any, ...]:
    """Return one object of each dataclass from the command line: the preset, the flags of --config, the flags typed.

    Without `--preset`, `--model` and `--dataset` the preset is `demo`. With `--resume` the settings of the run take its
    place. Wrong usage exits with 2, as argparse does.

    Args:
        recipe: the preset whose settings are the defaults where none is named.

    Raises:
        ConfigError: a value out of bounds, or a run to resume that is not there.
    """
    parser = flag_parser(kinds, description)
    known = {entry.name for kind in kinds for entry in fields(kind)}

    def set_defaults(values: Mapping[str, Any]) -> None:
        """Set the defaults of the flags that there are, which --help shows."""
        parser.set_defaults(**{key: value for key, value in values.items() if key in known})

    set_defaults(PRESETS[recipe])
    arguments = with_config(sys.argv[1:] if arguments is None else arguments, parser)
    typed, _ = parser.parse_known_args(arguments)
    resumed = _resumed_flags(typed)
    name = getattr(typed, "preset", None)
    if name is None and not resumed and typed.model is None and typed.dataset is None:
        name = "demo"
    if name is not None and name not in PRESETS:
        parser.error(f"--preset: there is no {name!r}; choose from {', '.join(PRESETS)}")
    set_defaults(resumed or {**PRESETS[name or recipe], "preset": name})
    objects = parse_flags(parser, arguments)
    _check_complete(parser, objects)
    return objects


def flag_parser(kinds: Sequence[Any], description: str) -> HfArgumentParser:
    """Return a parser with a flag for every field of these dataclasses, written in full; a mapping is given as JSON."""
    parser = HfArgumentParser(
        tuple(kinds),
        prog=_program(),
        usage="%(prog)s [--flag value ...]",
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    for action in parser._actions:
        if get_origin(action.type) is dict:
            action.type = _mapping
    return parser


def argument_parser(description: str | None) -> CommandParser:
    """Return a parser for a command that has no dataclasses."""
    return CommandParser(prog=_program(), description=description)


def add_shared(parser: CommandParser, *names: str, **changes: Mapping[str, Any]) -> None:
    """Add flags that several commands have, each to its group; `changes` says where a flag differs here."""
    for name in names:
        title, settings = SHARED[name]
        parser.group(title).add_argument(f"--{name}", **{**settings, **changes.get(name, {})})


def named_columns(options: argparse.Namespace) -> dict[str, Any]:
    """Return the columns of `--dataset` that are named.

    Raises:
        ConfigError: columns of no data set.
    """
    named = {name: getattr(options, name) for name in COLUMN_FLAGS if getattr(options, name) is not None}
    if named and options.dataset is None:
        raise ConfigError("names a column of other rows", where=f"--{next(iter(named))}", remedy="name them with --dataset")
    return named


def add_adapter(parser: CommandParser, **changes: Any) -> None:
    """Add the adapter, which comes first and without a flag, the base it is for, and its labels."""
    meaning = "adapter folder, as the command train writes it, or hub:owner/name"
    parser.add_argument("adapter", **{"metavar": "ADAPTER", "help": meaning, **changes})
    add_shared(parser, "model", "labels")


def _program() -> str:
    """The name in the usage line: of the script, or `lora-scratch COMMAND`."""
    return os.path.basename(sys.argv[0])


def _mapping(text: str) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"""found {text!r}; expected JSON such as '{{"query": 2}}'""")
    return content


def parse_flags(parser: HfArgumentParser, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Return one object of each dataclass of the parser; an unknown word or an empty value exits with 2."""
    *objects, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(printable(f"unknown: {' '.join(unknown)}; --help lists the flags"))
    for options in objects:
        check_given(parser, options)
    return tuple(objects)


def _resumed_flags(typed: Any) -> dict[str, Any]:
    """The flags of the run to resume; none for a new run."""
    folder = getattr(typed, "resume", None)
    recorded = recorded_run(folder) if folder else None
    if folder and recorded is None and typed.output_dir is None:
        raise ConfigError(
            "no run was started here (there is no config.json)",
            where=f"--resume {folder}",
            remedy=f"name another folder, or add --output_dir {folder} to start one here",
        )
    return recorded_flags(recorded) if recorded else {}


def check_given(parser: argparse.ArgumentParser, options: object) -> None:
    """Exit with 2 where a flag has an empty value. An unset shell variable gives an empty string; reject it.

    So is `--json --`, for which argparse gives an empty list, and a whole number that is too large to count with.

    Raises:
        ConfigError: a path that the operating system can't take.
    """
    takes_many = {action.dest for action in parser._actions if action.nargs not in (None, "?")}
    arguments = {action.dest for action in parser._actions if not action.option_strings}
    for name, value in vars(options).items():
        flag_name = name if name in arguments else f"--{name}"
        empty_inside = name not in arguments and "" in _values(value)
        if value == "" or empty_inside or (value == [] and name not in takes_many):
            parser.error(f"{flag_name}: found an empty value")
        for single in _values(value):
            if isinstance(single, int) and abs(single) > LARGEST:
                parser.error(f"{flag_name}: found {single}; expected at most {LARGEST}")
            if isinstance(single, str) and name in PATHS:
                typed_path(single, flag=flag_name, written=name in WRITTEN, or_hub=name in HUB_NAMES)


def _values(value: Any) -> Iterator[Any]:
    """The value of a flag itself, or those that a list or a mapping holds."""
    if not isinstance(value, list | dict):
        yield value
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _values(inner)


def _check_complete(parser: Any, objects: Sequence[Any]) -> None:
    for options in objects:
        for name in ("model", "dataset"):
            if hasattr(options, name) and getattr(options, name) is None:
                parser.error(f"--{name} is missing: pass it, or --preset ({', '.join(PRESETS)})")
