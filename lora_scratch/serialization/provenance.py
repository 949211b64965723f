"""provenance.json: how an adapter came to be, and what PEFT's format has no field for.

Alpha and rsLoRA show in no tensor: an adapter read with another alpha is silently too strong or too
weak. So the scaling of every module is recorded and compared. The labels say what the logits mean.
Because this file decides what is checked, it carries a digest of itself, and that digest and every
type are checked before anything else is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_type_hints

from ..adapter.config import LoRAConfig, alpha_of, rank_of
from ..adapter.quantize import FULL
from ..errors import AdapterFileError
from ..layers import lora_scaling
from ..tasks import SINGLE_LABEL, TASKS, Task, make_task
from .peft_format import stored_config

FORMAT = 1
SEAL = "provenance_sha256"
REMEDY = "copy the adapter folder again, or train it again"

Settings = dict[str, dict[str, float]]
Section = TypeVar("Section")


@dataclass(frozen=True)
class BaseRecord:
    """The base of an adapter: the name to load it by, its precision, the digests of its tensors."""

    name: str = ""
    precision: str = FULL
    tensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class DataRecord:
    """The rows that an adapter was trained with. None stands for what the folder does not say."""

    dataset: str | None = None
    source: str | None = None
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    max_tokens: int | None = None
    skip_bad_rows: bool | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """The settings of the training that a reader asks for. None stands for what is not recorded."""

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | int | None = None
    precision: str | None = None
    seed: int | None = None


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
    base: BaseRecord = BaseRecord()
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
        problems = _problems(document)
        data = _section(DataRecord, "data", document, problems)
        training = _section(TrainingRecord, "training", document, problems)
        if data.max_tokens is not None and data.max_tokens < 1:
            problems.append(f"data.max_tokens is {data.max_tokens}, expected at least 1")
        if problems:
            raise AdapterFileError(problems, where=where, remedy=REMEDY)
        base = document["base"]
        return cls(
            adapter_sha256=document["adapter_sha256"],
            seed=document["seed"],
            base=BaseRecord(base["name"], base.get("precision", FULL), base["tensors"]),
            head_modules=tuple(document["config"]["head_modules"]),
            modules=document["modules"],
            labels=tuple(document.get("labels") or ()),
            task=document.get("task", SINGLE_LABEL),
            decision=document.get("decision", {}),
            trainable=document.get("trainable"),
            command=document.get("command"),
            data=data,
            training=training,
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


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with the SHA-256 of its content as an entry. Its layout does not count."""
    content = json.loads(json.dumps({key: value for key, value in document.items() if key != SEAL}))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, SEAL: digest}


def _problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is missing or has another type, apart from the fields of the sections."""
    config, labels = document.get("config"), document.get("labels")
    heads = config.get("head_modules") if isinstance(config, dict) else None
    different = labels is None or (_is_names(labels) and len({*labels}) == len(labels))
    expected = {
        "format": (document.get("format") == FORMAT, str(FORMAT)),
        "adapter_sha256": (isinstance(document.get("adapter_sha256"), str), "a SHA-256"),
        "base": (_is_base(document.get("base")), "name, precision and tensors of the base"),
        "config": (_is_names(heads), "settings with the names of the head modules"),
        "seed": (type(document.get("seed")) is int, "a whole number"),
        "modules": (_is_table(document.get("modules"), (int, float)), "the settings of each module"),
        "labels": (different, "a list of different names"),
        "task": (document.get("task", SINGLE_LABEL) in TASKS, " or ".join(TASKS)),
        "decision": (_is_decision(document.get("decision", {})), "thresholds by label, or a temperature"),
        "trainable": (isinstance(document.get("trainable", ""), str), "a text"),
        "command": (isinstance(document.get("command", ""), str), "a text"),
        SEAL: (document.get(SEAL) == sealed(document)[SEAL], "the SHA-256 of the other fields"),
    }
    return [f"{name} is not {kind}" for name, (holds, kind) in expected.items() if not holds]


def _section(kind: type[Section], name: str, document: Mapping[str, Any], problems: list[str]) -> Section:
    """Read the fields of a section, and add a line to `problems` for each one of another type."""
    section = {} if document.get(name) is None else document[name]
    if not isinstance(section, dict):
        problems.append(f"{name} is {section!r}, which is no object")
        return kind()
    types = {key: get_args(hint) for key, hint in get_type_hints(kind).items()}
    wrong = [key for key in types if type(section.get(key)) not in types[key]]
    problems += [f"{name}.{key} is {section[key]!r}, which is no {types[key][0].__name__}" for key in wrong]
    return kind(**{key: section.get(key) for key in types if key not in wrong})


def _describe(settings: Mapping[str, float] | None) -> str:
    if settings is None:
        return "no adapter"
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))


def _is_base(base: object) -> bool:
    if not isinstance(base, dict) or not _is_table(base.get("tensors"), str):
        return False
    return isinstance(base.get("name"), str) and isinstance(base.get("precision", FULL), str)


def _is_decision(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    numbers = [value.get("temperature", 1.0), *dict(value.get("thresholds") or {}).values()]
    return all(type(number) in (int, float) for number in numbers)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_table(table: object, kind: type | tuple[type, ...]) -> bool:
    rows = table.values() if isinstance(table, dict) else [None]
    return all(isinstance(row, dict) and all(isinstance(v, kind) for v in row.values()) for row in rows)
