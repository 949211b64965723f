"""The options of the command train: every field is a flag, with its help."""

from __future__ import annotations

from dataclasses import dataclass

from ..adapter import BASE_PRECISIONS, LoRAConfig
from ..data.labels import AUTO, TASKS
from ..errors import ConfigError
from ..runtime.options import flag
from ..runtime.paths import typed_path
from ..training import TrainingConfig
from .presets import BASIC, PRESETS, RECOMMENDED

ADAPTER_AND_HEAD, ADAPTER, ALL, HEAD, BITFIT = TRAINABLE = ("adapter_and_head", "adapter", "all", "head", "bitfit")
WITH_ADAPTER = (ADAPTER_AND_HEAD, ADAPTER)


@dataclass
class ModelOptions:
    """Which pretrained classifier."""

    _argument_group_name = "model"  # the title of these flags in --help

    model: str | None = flag(None, "hub name or folder of a pretrained encoder, or `demo`")
    start_from: str | None = flag(
        None, "adapter folder, or hub:owner/name, to start from: its A and B, and its head if the labels are equal"
    )
    base_precision: str = flag("full", "how the frozen base is stored: full, or nf4 for 4 bits a weight (QLoRA)")

    def __post_init__(self) -> None:
        if self.base_precision not in BASE_PRECISIONS:
            raise ConfigError(
                f"found {self.base_precision!r}", where="--base_precision", expected=" or ".join(BASE_PRECISIONS)
            )


@dataclass
class DataOptions:
    """Which rows."""

    _argument_group_name = "data"  # the title of these flags in --help

    dataset: str | None = flag(
        None,
        "hub name, folder with train/validation/test files, or one file (.csv .tsv .jsonl .json .parquet .txt, text "
        "files also as .gz), or `demo`; NAME:CONFIGURATION for one part of a data set that has several",
    )
    text_column: str = flag("text", "name of the column with the text")
    pair_column: str | None = flag(None, "name of the column with the second text, for pairs of texts")
    label_column: str | list[str] = flag(
        ["label"], "name of the column with the label; several names are columns of 0 and 1, one for every label"
    )
    task: str = flag(
        AUTO,
        f"what is predicted: {', '.join(TASKS)}, or auto to decide by the labels (lists: multi_label; numbers that are "
        'not all whole: regression). In text cells several labels are a JSON list (["a", "b"]) or names with commas (a, b)',
    )
    max_tokens: int = flag(128, "longer rows are cut to this many tokens, and counted")
    limit_train: int | None = flag(None, "use only this many training rows")
    limit_eval: int | None = flag(None, "use only this many validation rows and test rows")
    skip_bad_rows: bool = flag(False, "leave out rows that can't be used, and list them, instead of stopping")

    def __post_init__(self) -> None:
        if not isinstance(self.label_column, str) and len(self.label_column) == 1:
            (self.label_column,) = self.label_column
        for name in ("max_tokens", "limit_train", "limit_eval"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"found {value}", where=f"--{name}", expected="at least 1")
        if self.task not in (AUTO, *TASKS):
            raise ConfigError(f"found {self.task!r}", where="--task", expected=" or ".join((AUTO, *TASKS)))


@dataclass
class RunOptions:
    """Where the run goes and what it adds."""

    _argument_group_name = "run"  # the title of these flags in --help

    preset: str | None = flag(
        None,
        f"a named job or recipe whose settings other flags override: {', '.join(PRESETS)}; without --model and --dataset "
        f"the default is demo, with them {RECOMMENDED}; {BASIC} has the library's own defaults",
    )
    output_dir: str | None = flag(None, "folder of the run; must not hold a run yet (default: checkpoints/<job>, numbered)")
    config: str | None = flag(
        None, "flags from this YAML or JSON file; the preset's values are below them, typed flags above"
    )
    resume: str | None = flag(
        None, "resume the run in this folder, with its settings; with --output_dir, start it if it is not there"
    )
    save_steps: int = flag(0, "optimizer steps between two checkpoints; 0 for one after every epoch")
    keep: int = flag(2, "checkpoints to keep; older ones are removed")
    linear_probe: bool = flag(False, "also measure a linear probe on the frozen features")
    trainable: str = flag(
        ADAPTER_AND_HEAD,
        f"what is trained: {', '.join(TRAINABLE)}; with `adapter` the file holds the untrained head; `all` is full "
        "fine-tuning, `bitfit` trains all biases and the head; these two and `head` have no adapter and write model/",
    )
    tensorboard: bool = flag(False, "write the training's figures for TensorBoard too, to tensorboard/ in the run folder")
    fsdp: bool = flag(False, "split the base over the processes of torchrun, for one too large for one device")

    def __post_init__(self) -> None:
        if self.save_steps < 0:
            raise ConfigError(f"found {self.save_steps}", where="--save_steps", expected="at least 0")
        if self.keep < 1:
            raise ConfigError(f"found {self.keep}", where="--keep", expected="at least 1")
        if self.trainable not in TRAINABLE:
            raise ConfigError(f"found {self.trainable!r}", where="--trainable", expected=" or ".join(TRAINABLE))
        if self.trainable not in WITH_ADAPTER and self.fsdp:
            raise ConfigError(f"with --trainable {self.trainable}", where="--fsdp", expected="a frozen base to share out")
        places = [
            typed_path(getattr(self, name), flag=f"--{name}", written=True).resolve()
            for name in ("resume", "output_dir")
            if getattr(self, name)
        ]
        if len(set(places)) > 1:
            raise ConfigError(
                f"is not --resume {self.resume}", where=f"--output_dir {self.output_dir}", expected="one folder"
            )


TRAIN_OPTIONS = (ModelOptions, DataOptions, LoRAConfig, TrainingConfig, RunOptions)  # the flags of the command train
