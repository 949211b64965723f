"""What provenance.json has to hold, and the settings of each module in it.

Alpha and rsLoRA show in no tensor: an adapter read with another alpha is silently too strong or too weak. So the scaling
of every module is recorded and compared. And since this file decides what is checked (and says which label is which, in
folders of scripts/train.py), it carries a digest of itself, and that and its form are checked first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..adapter.config import LoRAConfig, alpha_of, rank_of
from ..layers import lora_scaling
from .peft_format import stored_config

FORMAT = 1
SEAL = "provenance_sha256"

Settings = dict[str, dict[str, float]]


def settings_by_module(names: Iterable[str], config: LoRAConfig) -> Settings:
    """Rank, alpha and scaling of every adapted module, as the tensors in the file need them."""
    config = stored_config(config)
    return {name: _settings(rank_of(config, name), alpha_of(config, name), rslora=config.rslora) for name in names}


def differing_settings(names: Iterable[str], config: LoRAConfig, recorded: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One clause for every module whose settings are not the recorded ones."""
    present = settings_by_module(names, config)
    return [
        f"{name} has {_describe(present.get(name))}, and provenance.json says {_describe(recorded.get(name))}"
        for name in {**present, **recorded}
        if present.get(name) != recorded.get(name)
    ]


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the SHA-256 of all of them under `provenance_sha256`; how the JSON is laid out does not count."""
    content = json.loads(json.dumps({name: value for name, value in fields.items() if name != SEAL}))
    return {**content, SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def problems_in(fields: Mapping[str, Any]) -> list[str]:
    """What is missing from provenance.json or is not of its kind; that it is not what was written, if so."""
    kinds = {
        "format": (fields.get("format") == FORMAT, str(FORMAT)),
        "adapter_sha256": (isinstance(fields.get("adapter_sha256"), str), "a SHA-256"),
        "base": (_is_base(fields.get("base")), "name and tensors of the base"),
        "config": (_is_config(fields.get("config")), "settings with the names of the head modules"),
        "seed": (type(fields.get("seed")) is int, "a whole number"),
        "modules": (_is_table(fields.get("modules")), "the settings of each module"),
    }
    problems = [f"{name} is not {expected}" for name, (holds, expected) in kinds.items() if not holds]
    whole = fields.get(SEAL) == sealed(fields)[SEAL]
    return problems + ([] if whole else [f"{SEAL} is not the SHA-256 of the other fields"])


def _settings(rank: int, alpha: float, *, rslora: bool) -> dict[str, float]:
    return {"rank": rank, "alpha": alpha, "scaling": lora_scaling(alpha, rank, rslora=rslora)}


def _describe(settings: Mapping[str, float] | None) -> str:
    return "no adapter" if settings is None else ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))


def _is_base(base: object) -> bool:
    return isinstance(base, dict) and isinstance(base.get("name"), str) and _is_table(base.get("tensors"))


def _is_config(config: object) -> bool:
    heads = config.get("head_modules") if isinstance(config, dict) else None
    return isinstance(heads, list) and all(isinstance(head, str) for head in heads)


def _is_table(table: object) -> bool:
    return isinstance(table, dict) and all(isinstance(row, dict) for row in table.values())
