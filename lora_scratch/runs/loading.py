"""Open a model or a data set by its name; `demo` is the embedded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..adapter import LoRAConfig, dry_run
from ..adapter.config import ALL_LINEAR
from ..adapter.targets import default_targets, matches
from ..data import Encoded, Example, Splits, encode, load_held_out, load_splits
from ..data.examples import Label
from ..demo import demo_splits, foundation_folder
from ..errors import ConfigError, DataError, printable
from ..model.base import Base, load_base
from ..model.checks import check_base
from ..runtime import deferred_imports, garbage
from ..runtime.distributed import local_rank_zero_first
from ..tasks import REGRESSION, task_of
from .options import DataOptions

DEMO = "demo"


def open_splits(options: DataOptions, *, seed: int = 0) -> Splits:
    """Open the rows that the options name, cut to the limits.

    Raises:
        DataError: anything wrong with them.
    """
    with local_rank_zero_first():
        if options.dataset == DEMO:
            splits = demo_splits()
        else:
            splits = load_splits(str(options.dataset), task=options.task, seed=seed, **_reading(options))
    return _limited(splits, options)


def open_held_out(options: DataOptions, *, labels: Sequence[str]) -> Splits:
    """Open rows to measure an adapter on: all of a file, or the test rows of a folder, as `test`.

    Raises:
        DataError: anything wrong with them, or a label that is not one of the adapter's `labels`.
    """
    with local_rank_zero_first():
        splits = load_held_out(str(options.dataset), labels=labels, task=options.task, **_reading(options))
    return _limited(splits, options)


def _reading(options: DataOptions) -> dict[str, Any]:
    names = ("text_column", "pair_column", "label_column", "skip_bad_rows")
    return {name: getattr(options, name) for name in names}


def _limited(splits: Splits, options: DataOptions) -> Splits:
    return replace(
        splits,
        train=splits.train[: options.limit_train],
        validation=splits.validation[: options.limit_eval],
        test=splits.test[: options.limit_eval],
    )


def left_out(splits: Splits) -> list[str]:
    """Return lines that say which rows --skip_bad_rows left out and why, if it left out any."""
    count = len(splits.skipped)
    return [f"left out {count:,} bad rows:", *(printable(f"  {line}") for line in splits.skipped)] if count else []


def relabel(splits: Splits, labels: Sequence[str]) -> Splits:
    """Return the same rows with the label numbers of `labels`, the order of an adapter's logits.

    Raises:
        DataError: a label that the adapter does not know.
    """
    if splits.task == REGRESSION:  # its one name is that of a column, which can be another here
        return replace(splits, labels=tuple(labels))
    unknown = [label for label in splits.labels if label not in labels]
    if unknown:
        raise DataError(
            f"the adapter knows no label {unknown[0]!r}", where=splits.source, expected=f"labels {', '.join(labels)}"
        )
    number = [list(labels).index(label) for label in splits.labels]
    return replace(
        splits,
        labels=tuple(labels),
        train=_renumbered(splits.train, number),
        validation=_renumbered(splits.validation, number),
        test=_renumbered(splits.test, number),
    )


def _renumbered(rows: Sequence[Example], number: Sequence[int]) -> tuple[Example, ...]:
    """Return the rows with the number `number[i]` in place of the label i."""
    return tuple(replace(row, label=_renumbered_label(row.label, number)) for row in rows)


def _renumbered_label(label: Label, number: Sequence[int]) -> Label:
    if isinstance(label, tuple):
        return tuple(sorted(number[index] for index in label))
    return number[label] if isinstance(label, int) else label


def open_base(name: str, *, labels: Sequence[str] | None = None, task: str | None = None, seed: int = 0) -> Base:
    """Load the pretrained classifier called `name`. The demo's is built on first use.

    Args:
        labels, task: as for `load_base`.

    Raises:
        ModelError: it can't be loaded, or model and tokenizer do not fit (model/checks.py).
    """
    with local_rank_zero_first():
        source = name if name != DEMO else str(foundation_folder())
        loaded = load_base(source, labels=labels, task=task, seed=seed)
        deferred_imports.resume()  # the last of a command's large imports was that of the model's code
        base = check_base(loaded)
    garbage.resume()  # all that a command keeps to its end is there
    return replace(base, name=name)


def with_columns_of(splits: Splits, options: DataOptions) -> DataOptions:
    """Return the options with the columns that were read, which a known layout can have chosen."""
    if splits.columns is None:
        return options
    text, labels, pair = splits.columns.text, list(splits.columns.labels), splits.columns.pair
    return replace(options, text_column=text, label_column=labels, pair_column=pair)


def fitting_rows(options: DataOptions, base: Base) -> DataOptions:
    """Return the options, with the default of --max_tokens lowered to what the model reads."""
    limit = int(base.tokenizer.model_max_length)
    return replace(options, max_tokens=limit) if limit < options.max_tokens == DataOptions().max_tokens else options


def encode_rows(rows: Sequence[Example], base: Base, *, max_tokens: int) -> Encoded:
    """Encode rows as token ids, cut to `max_tokens`; `truncated` counts the cut ones."""
    labels = task_of(base.model).tensor([row.label for row in rows])
    pairs = [row.pair for row in rows if row.pair is not None]
    return encode([row.text for row in rows], labels, base.tokenizer, max_tokens=max_tokens, pairs=pairs or None)


def resolve_adapter(base: Base, config: LoRAConfig) -> LoRAConfig:
    """Return the config with targets and head modules resolved in this model, which is not changed.

    Default targets and `all-linear` leave out the layers that have no effect on the logits.

    Raises:
        ConfigError: a name that matches nothing, a rank above a layer's, or a parameter with random
            values that would not be trained, so that the model would keep noise.
    """
    config = dry_run(base.model, _without_unused(base, config)).config
    check_covered(base, config.head_modules or [])
    return config


def _without_unused(base: Base, config: LoRAConfig) -> LoRAConfig:
    targets = config.targets or default_targets(base.model)
    if not base.unused or (config.targets and targets != [ALL_LINEAR]):
        return config
    unused = [name for name in base.unused if targets == [ALL_LINEAR] or any(matches(name, t) for t in targets)]
    return replace(config, exclude=[*(config.exclude or []), *unused] or None)


def check_covered(base: Base, heads: Sequence[str]) -> None:
    """Check that no parameter outside of the heads has random values. Raise ConfigError otherwise."""
    trained = tuple(f"{head}." for head in heads)
    without_effect = {f"{name}.{kind}" for name in base.unused for kind in ("weight", "bias")}
    stays = [name for name in base.newly_initialized if not name.startswith(trained) and name not in without_effect]
    if stays:
        owners = sorted({name.rpartition(".")[0] for name in stays})
        raise ConfigError(
            f"{', '.join(stays[:4])} would keep random values: {base.name} does not hold them",
            where="--head_modules",
            remedy=f"train them too: --head_modules {' '.join([*heads, *owners])}",
        )
