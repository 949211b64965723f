"""PEFT's file format: the names of the tensors and the fields of adapter_config.json, in both directions.

    base_model.model.<module>.lora_A.weight    (rank, in)
    base_model.model.<module>.lora_B.weight    (out, rank)
    base_model.model.<head module>.<tensor>    as in the model

Source: peft 0.21.2, written and read by its own `save_pretrained` and `from_pretrained`; see tests/parity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import AdapterFileError, ConfigError
from .config import LoRAConfig
from .inject import adapter_layers

PREFIX = "base_model.model."

# What a field may say without changing the mathematics; any other field has to be empty, zero or false.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),  # only the start of training; the file holds the end
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
}
IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "modules_to_save",
}
UNDERSTOOD = {"peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora"}


def adapter_file_tensors(model: nn.Module, heads: Iterable[str]) -> dict[str, Tensor]:
    """Every tensor of the adapter and of the head modules, under its name in the file. The tensors are the model's own."""
    adapter = {
        f"{PREFIX}{name}.{suffix}": tensor.data
        for name, layer in adapter_layers(model).items()
        for suffix, tensor in layer.adapter_tensors().items()
    }
    head = {
        f"{PREFIX}{name}.{key}": tensor for name in heads for key, tensor in model.get_submodule(name).state_dict().items()
    }
    return adapter | head


def to_peft_config(config: LoRAConfig, *, base_model: str) -> dict[str, Any]:
    """adapter_config.json: the fields that say something, and those that PEFT wants to see."""
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": list(config.head_modules or []) or None,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": sorted(config.targets or []),
        # SEQ_CLS makes PEFT expect a trained `classifier`; without a trained head it must not.
        "task_type": "SEQ_CLS" if config.head_modules else None,
        "use_dora": False,
        "use_rslora": config.rslora,
    }


def from_peft_config(fields: Mapping[str, Any], *, head_modules: list[str]) -> LoRAConfig:
    """The settings in an adapter_config.json; the head modules come from the tensors, which PEFT's list only hints at.

    Raises:
        AdapterFileError: a field of another kind of adapter, or a value out of bounds; all at once.
    """
    problems = [
        f"{name} is {value!r}, which is not supported" for name, value in fields.items() if not _understood(name, value)
    ]
    if fields.get("peft_type") != "LORA":
        problems.append(f"peft_type is {fields.get('peft_type')!r}, expected 'LORA'")
    targets = fields.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        problems.append(f"target_modules is {targets!r}, expected a list of names")
    if problems:
        raise AdapterFileError(problems, where="adapter_config.json")
    try:
        return LoRAConfig(
            rank=fields["r"],
            alpha=float(fields["lora_alpha"]),
            dropout=float(fields.get("lora_dropout", 0.0)),
            targets=sorted(fields["target_modules"]),
            rslora=bool(fields.get("use_rslora", False)),
            head_modules=head_modules,
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise AdapterFileError([f"bad or missing field: {error}"], where="adapter_config.json") from error


def heads_in(names: Iterable[str]) -> list[str]:
    """The modules that hold the tensors in a file which belong to no adapter layer, in order of appearance."""
    owners = (name.removeprefix(PREFIX).rpartition(".")[0] for name in names if ".lora_" not in name)
    return list(dict.fromkeys(owners))


def _understood(name: str, value: object) -> bool:
    return name in UNDERSTOOD or name in IGNORED or not value or value in HARMLESS.get(name, ())
