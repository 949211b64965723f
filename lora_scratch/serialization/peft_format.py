"""PEFT's file format: the names of the tensors and the fields of adapter_config.json.

    base_model.model.<module>.lora_A.weight          (rank, in)
    base_model.model.<module>.lora_B.weight          (out, rank)
    base_model.model.<module>.lora_magnitude_vector  (out,)       DoRA
    base_model.model.<module>.lora_embedding_A       (rank, num)  and lora_embedding_B (dim, rank)
    base_model.model.<module>.base_layer.bias        (out,)       a trained bias of an adapted layer
    base_model.model.<module>.<tensor>               head modules and other trained biases

pissa and olora are written as the plain LoRA that they equal: twice the rank, the same scaling
(layers/offset.py). So is a registered variant that is plain LoRA (LoRA-FA is). The folder of any
other variant says `"peft_type": "LORA_SCRATCH"`: PEFT refuses it, and this package reads it where the
variant is registered.

Source: peft 0.21.2, its own `save_pretrained` and `from_pretrained`; see tests/parity.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..adapter.config import REGEX, LoRAConfig
from ..errors import AdapterFileError
from ..layers import OFFSET_METHODS, adapter_variants, stored_alpha

PREFIX = "base_model.model."
LORA, OWN = "LORA", "LORA_SCRATCH"  # peft_type: what PEFT computes too, and what it would misread
IN_PEFT = ("lora", "dora")
BASE_BIAS = "base_layer.bias"
SUFFIXES = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B", BASE_BIAS)

# Values that do not change the mathematics. Any other unknown field has to be empty, zero or false.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # only the start
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
}
# For these PEFT changes the base itself: the tensors mean nothing on the original weights.
MUTATES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",  # only the start of training
    "fan_in_fan_out",  # the module itself says how it stores its weight
    "inference_mode",
    "modules_to_save",  # the tensors say what is there
    "peft_version",
    "revision",
    "task_type",
}
# The kind of each field that is read; LoRAConfig checks the bounds. (The text "false" is truthy.)
UNDERSTOOD: dict[str, str] = {
    "alpha_pattern": "numbers by name",
    "bias": "a text",
    "exclude_modules": "a list of names or a regular expression",
    "layers_to_transform": "a whole number or a list of them",
    "lora_alpha": "a number",
    "lora_dropout": "a number",
    "peft_type": "a text",
    "r": "a number",
    "rank_pattern": "numbers by name",
    "target_modules": "a list of names or a regular expression",
    "use_dora": "true or false",
    "use_rslora": "true or false",
    "variant": "a text",
}
OPTIONAL = {"alpha_pattern", "exclude_modules", "layers_to_transform", "rank_pattern"}  # or None


def stored_config(config: LoRAConfig) -> LoRAConfig:
    """Return the settings as in the file: for pissa and olora plain LoRA of twice the rank."""
    if config.init not in OFFSET_METHODS:
        return config
    return replace(
        config,
        init="default",
        rank=2 * config.rank,
        alpha=stored_alpha(config.alpha, rslora=config.rslora),
        rank_pattern={key: 2 * rank for key, rank in config.rank_pattern.items()},
        alpha_pattern={key: stored_alpha(alpha, rslora=config.rslora) for key, alpha in config.alpha_pattern.items()},
    )


def to_peft_config(
    config: LoRAConfig, *, base_model: str, fan_in_fan_out: bool = False, own: bool = False
) -> dict[str, Any]:
    """Return adapter_config.json: the fields that say something, and those that PEFT needs.

    Args:
        own: whether the file holds a variant that PEFT does not have.
        fan_in_fan_out: whether an adapted layer stores its weight as (in, out), as Conv1D does.
    """
    config = stored_config(config)
    selection = {
        "alpha_pattern": {key: _number(alpha) for key, alpha in config.alpha_pattern.items()},
        "exclude_modules": _to_names(config.exclude),
        "layers_to_transform": config.layers,
        "rank_pattern": config.rank_pattern,
        "variant": config.variant if own else None,
    }
    return {
        "base_model_name_or_path": base_model,
        "bias": config.bias,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _number(config.alpha),
        "lora_dropout": config.dropout,
        "modules_to_save": list(config.head_modules or []) or None,
        "peft_type": OWN if own else LORA,
        "r": config.rank,
        "target_modules": _to_names(config.targets),
        # SEQ_CLS makes PEFT expect a trained `classifier`; without a trained head it must not.
        "task_type": "SEQ_CLS" if config.head_modules else None,
        "use_dora": config.variant == "dora",
        "use_rslora": config.rslora,
        **{name: value for name, value in selection.items() if value},
    }


def from_peft_config(fields: Mapping[str, Any], *, head_modules: list[str]) -> LoRAConfig:
    """Return the settings in an adapter_config.json. Its list of head modules is not exact enough.

    Raises:
        AdapterFileError: a field of another kind of adapter, or a value out of bounds; all at once.
    """
    problems = _problems(fields)
    if problems:
        raise AdapterFileError(problems, where="adapter_config.json")
    layers = fields.get("layers_to_transform")
    try:
        return LoRAConfig(
            rank=fields["r"],
            alpha=float(fields["lora_alpha"]),
            dropout=float(fields.get("lora_dropout", 0.0)),
            targets=_from_names(fields["target_modules"]),
            rslora=bool(fields.get("use_rslora", False)),
            head_modules=head_modules,
            variant=fields.get("variant", "dora" if fields.get("use_dora") else "lora"),
            exclude=_from_names(fields.get("exclude_modules")),
            layers=[layers] if isinstance(layers, int) else layers or None,
            bias=fields.get("bias", "none"),
            rank_pattern=dict(fields.get("rank_pattern") or {}),
            alpha_pattern={key: float(alpha) for key, alpha in (fields.get("alpha_pattern") or {}).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterFileError([f"bad or missing field: {error}"], where="adapter_config.json") from error


def without_wrapper_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second and third copy of head biases that PEFT writes where `bias` is "all".

    PEFT collects every bias of its wrapped model: also `classifier.modules_to_save.bias`, equal to
    `classifier.bias`, and `classifier.original_module.bias`, the untrained one. In a head of many
    layers the former is called `classifier.modules_to_save.default.dense.bias`.
    """
    copies = (".original_module.", ".modules_to_save.default.", ".modules_to_save.")
    return {n: t for n, t in tensors.items() if not any(c in n and n.replace(c, ".") in tensors for c in copies)}


def heads_in(names: Iterable[str], *, bias: str = "none") -> list[str]:
    """Return the modules of the tensors that belong to no adapter layer, in order of appearance.

    Args:
        bias: the file's bias mode. Where biases are trained, a module with only a bias is no head.
    """
    own: dict[str, set[str]] = {}
    for name in names:
        if not any(name.endswith(f".{suffix}") for suffix in SUFFIXES):
            owner, _, tensor = name.removeprefix(PREFIX).rpartition(".")
            own.setdefault(owner, set()).add(tensor)
    return [owner for owner, tensors in own.items() if bias == "none" or tensors != {"bias"}]


def _problems(fields: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{name} is {value!r}, {_why_not(name, value)}" for name, value in fields.items() if not _understood(name, value)
    ]
    problems += _variant_problems(fields)
    if not fields.get("target_modules"):
        problems.append(f"target_modules is {fields.get('target_modules')!r}, expected {UNDERSTOOD['target_modules']}")
    return problems + [
        f"{name} is {fields[name]!r}, expected {kind}"
        for name, kind in UNDERSTOOD.items()
        if name in fields and not (fields[name] is None and name in OPTIONAL) and not _is(kind, fields[name])
    ]


def _variant_problems(fields: Mapping[str, Any]) -> list[str]:
    kind, variant = fields.get("peft_type"), fields.get("variant")
    if kind != OWN:
        problems = [] if kind == LORA else [f"peft_type is {kind!r}, expected {LORA!r}"]
        return problems + ([f"variant is {variant!r}, which is not supported"] if "variant" in fields else [])
    if variant in adapter_variants():
        return []
    known = ", ".join(adapter_variants())
    remedy = "import the module that registers it (python -m lora_scratch --import)"
    return [f"variant is {variant!r}, and {known} are registered: {remedy}"]


def _is(kind: str, value: object) -> bool:
    """Whether the value is of the kind, one of those in UNDERSTOOD."""
    several = value if isinstance(value, list) else [value]
    holds = {
        "a text": isinstance(value, str),
        "a number": type(value) in (int, float) and abs(value) <= sys.float_info.max,  # type: ignore[arg-type]
        "true or false": isinstance(value, bool),
        "numbers by name": isinstance(value, dict) and all(_is("a number", number) for number in value.values()),
        "a whole number or a list of them": all(type(item) is int for item in several),
        "a list of names or a regular expression": all(isinstance(item, str) for item in several),
    }
    return holds[kind]


def _why_not(name: str, value: object) -> str:
    if name == "init_lora_weights" and str(value).startswith(MUTATES_BASE):
        return (
            "for which PEFT changes the base weights, so that the adapter does not fit the original ones; save it again "
            "from PEFT with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    return "which is not supported"


def _understood(name: str, value: object) -> bool:
    return name in UNDERSTOOD or name in IGNORED or not value or value in HARMLESS.get(name, ())


def _to_names(patterns: list[str] | None) -> list[str] | str:
    """PEFT has a list of names, or a string for a regular expression."""
    if patterns and patterns[0].startswith(REGEX):
        return patterns[0].removeprefix(REGEX)
    return sorted(patterns or [])


def _from_names(field: list[str] | str | None) -> list[str] | None:
    return [f"{REGEX}{field}"] if isinstance(field, str) and field else sorted(field or []) or None


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
