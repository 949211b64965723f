"""The options that scripts share. Every flag is a dataclass field; HfArgumentParser turns them into flags and `--help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import HfArgumentParser

from ..adapter import BASE_PRECISIONS
from ..errors import ConfigError
from .presets import PRESETS


def _flag(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


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
    linear_probe: bool = _flag(False, "also measure a linear probe on the frozen features")


def parse(kinds: Sequence[Any], description: str, *, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """One object of each dataclass from the command line: the preset's values first, the flags over them.

    Without `--preset`, `--model` and `--dataset` the preset is `demo`. Wrong usage exits with 2, as argparse does.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(tuple(kinds), description=description)
    given, _ = parser.parse_known_args(arguments)
    name = getattr(given, "preset", None)
    if name is None and given.model is None and given.dataset is None:
        name = "demo"
    if name is not None and name not in PRESETS:
        parser.error(f"--preset: there is no {name!r}; choose from {', '.join(PRESETS)}")
    known = {each.name for kind in kinds for each in fields(kind)}
    parser.set_defaults(
        **{key: value for key, value in {**PRESETS.get(name or "", {}), "preset": name}.items() if key in known}
    )
    *objects, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}; --help lists the flags")
    _check_complete(parser, objects)
    return tuple(objects)


def _check_complete(parser: Any, objects: Sequence[Any]) -> None:
    for each in objects:
        for name in ("model", "dataset"):
            if hasattr(each, name) and getattr(each, name) is None:
                parser.error(f"--{name} is missing: pass it, or --preset ({', '.join(PRESETS)})")
