"""The options that scripts share. Every flag is a dataclass field; HfArgumentParser turns them into flags and `--help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_origin

from transformers import HfArgumentParser

from ..adapter import BASE_PRECISIONS
from ..errors import ConfigError, printable
from ..runtime.paths import typed_path
from .presets import PRESETS
from .resume import recorded_flags, recorded_run

HUB_NAMES = frozenset({"dataset", "model"})  # flags whose value is a path, or the name of something on the hub
READ = HUB_NAMES | {"adapter", "add", "average", "file", "heads_from", "resume", "subtract"}
WRITTEN = frozenset({"figures", "html", "json", "merged", "output", "output_dir"})
PATHS = READ | WRITTEN  # every flag or argument whose value is a path
LARGEST = 2**63 - 1  # the largest number that torch counts with

ADAPTER_AND_HEAD, ADAPTER, ALL = TRAINABLE = ("adapter_and_head", "adapter", "all")


def _flag(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description with its lines as they are written, and the default of every flag."""


@dataclass
class ModelOptions:
    """Which pretrained classifier."""

    model: str | None = _flag(None, "hub name or folder of a pretrained encoder, or `demo`")
    base_precision: str = _flag("full", "how the frozen base is stored: full, or nf4 for 4 bits a weight (QLoRA)")

    def __post_init__(self) -> None:
        if self.base_precision not in BASE_PRECISIONS:
            raise ConfigError(
                f"found {self.base_precision!r}", where="--base_precision", expected=" or ".join(BASE_PRECISIONS)
            )


@dataclass
class DataOptions:
    """Which rows."""

    dataset: str | None = _flag(
        None, "hub name, folder with train/validation/test files, or one file (.csv .tsv .jsonl .parquet .txt), or `demo`"
    )
    text_column: str = _flag("text", "name of the column with the text")
    label_column: str = _flag("label", "name of the column with the label")
    max_tokens: int = _flag(128, "longer rows are cut to this many tokens, and counted")
    limit_train: int | None = _flag(None, "use only this many training rows")
    limit_eval: int | None = _flag(None, "use only this many validation rows and test rows")
    skip_bad_rows: bool = _flag(False, "leave out rows that can't be used, and list them, instead of stopping")

    def __post_init__(self) -> None:
        for name in ("max_tokens", "limit_train", "limit_eval"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"found {value}", where=f"--{name}", expected="at least 1")


@dataclass
class RunOptions:
    """Where the run goes and what it adds."""

    preset: str | None = _flag(None, f"a named job whose settings other flags override: {', '.join(PRESETS)}")
    output_dir: str | None = _flag(None, "folder of the run; must not hold a run yet (default: checkpoints/<job>, numbered)")
    resume: str | None = _flag(None, "go on with the run in this folder, with its settings; with --output_dir, or start it")
    save_steps: int = _flag(0, "optimizer steps between two checkpoints; 0 for one after every epoch")
    keep: int = _flag(2, "checkpoints to keep; older ones are removed")
    linear_probe: bool = _flag(False, "also measure a linear probe on the frozen features")
    trainable: str = _flag(
        ADAPTER_AND_HEAD,
        f"what is trained: {', '.join(TRAINABLE)}; without head the adapter's file holds the untrained one, `all` is full "
        "fine-tuning, which has no adapter and writes model/ in its place",
    )
    tensorboard: bool = _flag(False, "write the training's figures for TensorBoard too, to tensorboard/ in the run folder")
    fsdp: bool = _flag(False, "share the base out over the processes of torchrun, for one that does not fit one device")

    def __post_init__(self) -> None:
        if self.save_steps < 0:
            raise ConfigError(f"found {self.save_steps}", where="--save_steps", expected="at least 0")
        if self.keep < 1:
            raise ConfigError(f"found {self.keep}", where="--keep", expected="at least 1")
        if self.trainable not in TRAINABLE:
            raise ConfigError(f"found {self.trainable!r}", where="--trainable", expected=" or ".join(TRAINABLE))
        if self.trainable == ALL and self.fsdp:
            raise ConfigError("with --trainable all", where="--fsdp", expected="a frozen base to share out")
        places = [
            typed_path(getattr(self, name), flag=f"--{name}", written=True).resolve()
            for name in ("resume", "output_dir")
            if getattr(self, name)
        ]
        if len(set(places)) > 1:
            raise ConfigError(
                f"is not --resume {self.resume}", where=f"--output_dir {self.output_dir}", expected="one folder"
            )


def parse(kinds: Sequence[Any], description: str, *, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """One object of each dataclass from the command line: the preset's values first, the flags over them.

    Without `--preset`, `--model` and `--dataset` the preset is `demo`. With `--resume` the run's settings take its place.
    Wrong usage exits with 2, as argparse does.

    Raises:
        ConfigError: a value out of bounds, or a run to go on with that is not there.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = flag_parser(kinds, description)
    given, _ = parser.parse_known_args(arguments)
    begun = _begun(given)
    name = getattr(given, "preset", None)
    if name is None and not begun and given.model is None and given.dataset is None:
        name = "demo"
    if name is not None and name not in PRESETS:
        parser.error(f"--preset: there is no {name!r}; choose from {', '.join(PRESETS)}")
    known = {each.name for kind in kinds for each in fields(kind)}
    defaults = begun or {**PRESETS.get(name or "", {}), "preset": name}
    parser.set_defaults(**{key: value for key, value in defaults.items() if key in known})
    objects = parse_flags(parser, arguments)
    _check_complete(parser, objects)
    return objects


def flag_parser(kinds: Sequence[Any], description: str) -> HfArgumentParser:
    """A flag for every field of these dataclasses, to be written in full; a mapping is given as JSON."""
    parser = HfArgumentParser(tuple(kinds), description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    for action in parser._actions:
        if get_origin(action.type) is dict:
            action.type = _mapping
    return parser


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The same for a script that has no dataclasses: the description with its lines as they are, flags in full."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"""found {text!r}; expected JSON such as '{{"query": 2}}'""")
    return found


def parse_flags(parser: HfArgumentParser, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """One object of each of the parser's dataclasses; a word that is none of theirs, or an empty value, exits with 2."""
    *objects, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(printable(f"unknown: {' '.join(unknown)}; --help lists the flags"))
    for each in objects:
        check_given(parser, each)
    return tuple(objects)


def _begun(given: Any) -> dict[str, Any]:
    """The flags of the run to go on with; none for a new run."""
    folder = getattr(given, "resume", None)
    recorded = recorded_run(folder) if folder else None
    if folder and recorded is None and given.output_dir is None:
        raise ConfigError(
            "no run was started here (there is no config.json)",
            where=f"--resume {folder}",
            remedy=f"name another folder, or add --output_dir {folder} to start one here",
        )
    return recorded_flags(recorded) if recorded else {}


def check_given(parser: argparse.ArgumentParser, options: object) -> None:
    """Exit with 2 where a flag has an empty value: an unset shell variable leaves one, and it is no wish for the default.

    So does `--json --`, for which argparse gives a list of nothing, and a whole number that no computer counts to.

    Raises:
        ConfigError: a path that the operating system can't take.
    """
    takes_many = {action.dest for action in parser._actions if action.nargs not in (None, "?")}
    arguments = {action.dest for action in parser._actions if not action.option_strings}
    for name, value in vars(options).items():
        flag = name if name in arguments else f"--{name}"
        if value == "" or (value == [] and name not in takes_many):
            parser.error(f"{flag}: found an empty value")
        for single in _values(value):
            if isinstance(single, int) and abs(single) > LARGEST:
                parser.error(f"{flag}: found {single}; expected at most {LARGEST}")
            if isinstance(single, str) and name in PATHS:
                typed_path(single, flag=flag, written=name in WRITTEN, or_hub=name in HUB_NAMES)


def _values(value: Any) -> Iterator[Any]:
    """The value of a flag itself, or those that a list or a mapping holds."""
    if not isinstance(value, list | dict):
        yield value
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _values(inner)


def _check_complete(parser: Any, objects: Sequence[Any]) -> None:
    for each in objects:
        for name in ("model", "dataset"):
            if hasattr(each, name) and getattr(each, name) is None:
                parser.error(f"--{name} is missing: pass it, or --preset ({', '.join(PRESETS)})")
