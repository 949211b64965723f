"""What each model family calls its parts: the one table that everything else reads.

A family is transformers' `model_type`. To support another one, add a line here; the tests of this
file compare every line with a real model of the family.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """The names of one family's modules.

    Args:
        query, key, value: the projections of attention, the default targets; last components.
        output: the projection behind attention, as last components of its name.
        blocks: the module under the encoder that holds the blocks (fast/packed.py).
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
    """Return transformers' name of the model's family, or an empty string if it has none."""
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def family_of(model: nn.Module) -> Family | None:
    """Return the line of the table for this model, or None for a family that is not in it."""
    return FAMILIES.get(family_name(model))


def default_heads(model: nn.Module) -> list[str]:
    """Return the modules with parameters that stand beside the encoder.

    The encoder is the module that transformers calls `model.base_model_prefix`.
    """
    encoder = getattr(model, "base_model_prefix", None)
    if not isinstance(getattr(model, encoder or "", None), nn.Module):
        return []
    children = model.named_children()
    return [name for name, child in children if name != encoder and any(True for _ in child.parameters())]
