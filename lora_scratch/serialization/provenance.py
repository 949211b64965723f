"""provenance.json: how an adapter came to be, and what PEFT's format has no field for.

Alpha and rsLoRA show in no tensor: an adapter read with another alpha is silently too strong or too
weak. So the scaling of every module is recorded and compared. The labels say what the logits mean.
Because this file decides what is checked, it carries a digest of itself, and that digest and every
type and range are checked before anything else is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..adapter.config import LoRAConfig, alpha_of, rank_of
from ..adapter.quantize import BASE_PRECISIONS, FULL
from ..errors import AdapterFileError
from ..layers import lora_scaling
from ..runtime.json_types import Bound, JsonReader, Name, between, one_of, shown
from ..runtime.precision import DTYPES
from ..tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task, make_task
from .peft_format import stored_config

FORMAT = 1
SEAL = "provenance_sha256"
REMEDY = "copy the adapter folder again, or train it again"
MOST_LABELS = 2**16
LARGEST = 2**31 - 1

Settings = dict[str, dict[str, float]]
Digest = Annotated[str, Bound("a SHA-256 in hex", lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None)]
Whole = Annotated[int, between(1, LARGEST)]
Positive = Annotated[float, Bound("a number above 0", lambda number: number > 0)]
Seed = Annotated[int, between(-(2**63), 2**63 - 1)]
Labels = Annotated[
    tuple[str, ...],
    Bound("different names", lambda names: len({*names}) == len(names)),
    Bound(f"at most {MOST_LABELS:,} names", lambda names: len(names) <= MOST_LABELS),
]


@dataclass(frozen=True)
class BaseRecord:
    """The base of an adapter: the name to load it by, its precision, the digests of its tensors."""

    name: Name
    tensors: Mapping[str, Mapping[str, Digest]]
    precision: Annotated[str, one_of(BASE_PRECISIONS)] = FULL


@dataclass(frozen=True)
class DataRecord:
    """The rows that an adapter was trained with. None stands for what the folder does not say."""

    dataset: Name | None = None
    source: Name | None = None
    text_column: Name | None = None
    pair_column: Name | None = None
    label_column: Name | tuple[Name, ...] | None = None
    max_tokens: Whole | None = None
    skip_bad_rows: bool | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """The settings of the training that a reader asks for. None stands for what is not recorded."""

    epochs: Whole | None = None
    batch_size: Whole | None = None
    learning_rate: Annotated[float, between(0, 1e9)] | None = None
    precision: Annotated[str, one_of(("auto", *DTYPES))] | None = None
    seed: Annotated[int, between(0, 2**63 - 1)] | None = None


@dataclass(frozen=True)
class _ModuleRecord:
    """The settings of an adapted module."""

    rank: Whole
    alpha: Positive
    scaling: Positive


@dataclass(frozen=True)
class _ConfigRecord:
    """The settings of the adapter, of which only these are asked for here."""

    head_modules: tuple[str, ...]


@dataclass(frozen=True)
class _Decision:
    """What a task fitted on validation rows."""

    thresholds: Mapping[str, Annotated[float, between(0, 1)]] | None = None
    temperature: Annotated[float, between(1e-6, 1e6)] | None = None


@dataclass(frozen=True)
class _Document:
    """Every field of the file that is read, with its type and range."""

    format: Annotated[int, between(FORMAT, FORMAT)]
    adapter_sha256: Digest
    base: BaseRecord
    config: _ConfigRecord
    seed: Seed
    modules: Mapping[str, _ModuleRecord]
    labels: Labels | None = None
    task: Annotated[str, one_of(TASKS)] = SINGLE_LABEL
    decision: _Decision = _Decision()
    data: DataRecord | None = None
    training: TrainingRecord | None = None
    trainable: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class Provenance:
    """What provenance.json says, checked.

    Args:
        head_modules: the modules that were trained in full.
        modules: rank, alpha and scaling of each adapted module, for the tensors in the file.
        labels: the label names, in the order of the logits; empty if none are recorded.
        task: what is predicted, a name of tasks/.
        decision: what the task fitted on validation rows, as `thresholds` or `temperature`.
        trainable, command: how the command train was called.
        document: the whole JSON object, unknown entries too; empty if nothing was saved yet.
    """

    adapter_sha256: str = ""
    seed: int = 0
    base: BaseRecord = BaseRecord("", {})
    head_modules: tuple[str, ...] = ()
    modules: Settings = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    task: str = SINGLE_LABEL
    decision: Mapping[str, Any] = field(default_factory=dict)
    data: DataRecord = DataRecord()
    training: TrainingRecord = TrainingRecord()
    trainable: str | None = None
    command: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str = "provenance.json") -> Provenance:
        """Check and read the JSON object.

        Raises:
            AdapterFileError: an entry is missing or of another type, or the object was changed.
        """
        reader = JsonReader(allow_unknown=True)
        read: _Document | None = reader.read(_Document, document)
        problems = reader.problems + seal_problems(document) + (_fit_problems(read) if read else [])
        if problems or read is None:
            raise AdapterFileError(problems, where=where, remedy=REMEDY)
        return cls(
            adapter_sha256=read.adapter_sha256,
            seed=read.seed,
            base=read.base,
            head_modules=read.config.head_modules,
            modules=document["modules"],
            labels=read.labels or (),
            task=read.task,
            decision=document.get("decision", {}),
            trainable=read.trainable,
            command=read.command,
            data=read.data or DataRecord(),
            training=read.training or TrainingRecord(),
            document=document,
        )

    def make_task(self) -> Task:
        """Return the task, with what it fitted on validation rows."""
        return make_task(self.task, self.labels).with_settings(self.decision)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that it was read from."""
        return dict(self.document)

    def select(self, *names: str) -> dict[str, Any]:
        """Return those of these entries that are there, for the notes of a new adapter."""
        return {name: self.document[name] for name in names if name in self.document}


def settings_by_module(names: Iterable[str], config: LoRAConfig) -> Settings:
    """Return rank, alpha and scaling of every adapted module, for the tensors in the file."""
    config = stored_config(config)
    settings = {}
    for name in names:
        rank, alpha = rank_of(config, name), alpha_of(config, name)
        scaling = lora_scaling(alpha, rank, rslora=config.rslora)
        settings[name] = {"rank": rank, "alpha": alpha, "scaling": scaling}
    return settings


def differing_settings(present: Settings, recorded: Settings) -> list[str]:
    """Return one clause for every module whose settings are not the recorded ones."""
    pairs = {name: (present.get(name), recorded.get(name)) for name in {**present, **recorded}}
    return [
        f"{name} has {_describe(own)}, and provenance.json says {_describe(other)}"
        for name, (own, other) in pairs.items()
        if own != other
    ]


def sealed(document: Mapping[str, Any], *, seal: str = SEAL) -> dict[str, Any]:
    """Return the object with the SHA-256 of its content as the entry `seal`. Its layout does not count."""
    content = json.loads(json.dumps({key: value for key, value in document.items() if key != seal}))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, seal: digest}


def seal_problems(document: Mapping[str, Any], *, seal: str = SEAL) -> list[str]:
    """Return one clause if the content is not what was sealed."""
    fits = document.get(seal) == sealed(document, seal=seal)[seal]
    return [] if fits else [f"{seal} is not the SHA-256 of the other fields"]


def _fit_problems(document: _Document) -> list[str]:
    """Return what does not fit between task, labels and decision."""
    task, labels, decision, problems = document.task, document.labels or (), document.decision, list[str]()
    if task == REGRESSION and len(labels) > 1:
        problems.append(f"labels has {len(labels):,} names, expected one for task {task}")
    if decision.temperature is not None and task != SINGLE_LABEL:
        problems.append(f"decision.temperature has no meaning for task {task}")
    if decision.thresholds and task != MULTI_LABEL:
        problems.append(f"decision.thresholds has no meaning for task {task}")
    elif decision.thresholds and {*decision.thresholds} != {*labels}:
        problems.append(f"decision.thresholds is for {shown(sorted(decision.thresholds))}, expected one of every label")
    return problems


def _describe(settings: Mapping[str, float] | None) -> str:
    if settings is None:
        return "no adapter"
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))
