"""The table of model families: the names of their modules. All other code reads it here.

A family is transformers' `model_type`. To support another one, add a line. The tests compare every
line with a real model of the family.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """The names of one family's modules.

    Args:
        query, key, value: attention's projections, the default targets: the last part of a module's name.
        output: the output projection after attention: the last parts of its name.
        blocks: the module in the encoder that contains the blocks (fast/packed.py).
    """

    query: str
    key: str
    value: str
    output: str
    blocks: str

    @property
    def query_key_value(self) -> list[str]:
        """The three projections, in this order."""
        return [self.query, self.key, self.value]


_BERT = Family("query", "key", "value", output="attention.output.dense", blocks="encoder")
FAMILIES = {
    "distilbert": Family("q_lin", "k_lin", "v_lin", output="out_lin", blocks="transformer"),
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
}


def family_name(model: nn.Module) -> str:
    """Return the model's family, or an empty string."""
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def family_of(model: nn.Module) -> Family | None:
    """Return the model's line in the table, or None."""
    return FAMILIES.get(family_name(model))


def default_heads(model: nn.Module) -> list[str]:
    """Return the modules with parameters outside the encoder, `model.base_model_prefix`."""
    encoder = getattr(model, "base_model_prefix", None)
    if not isinstance(getattr(model, encoder or "", None), nn.Module):
        return []
    outside = {name: child for name, child in model.named_children() if name != encoder}
    return [name for name, child in outside.items() if any(True for _ in child.parameters())]
