"""The table of model families: the names of their modules, and what they need. All other code reads it here.

A family is transformers' `model_type`. To support another one, add a line. The tests compare every
line with a real model of the family. A family that has no line is adapted in all its linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .language import is_language_model

LEFT = "left"  # padding before the text: the head reads the last token
UNSUITED = "unsuited"  # it computes with the padding: rows of one length alone are exact


@dataclass(frozen=True)
class Family:
    """The names of one family's modules, and what it needs.

    Args:
        targets: the last parts of the names of the default targets: attention's projections of its
            input, where they are layers.
        output: the output projection after attention, in the same form.
        blocks: the module in the encoder that contains the blocks, for families whose packed pass
            the tests prove equal (fast/packed.py).
        padding: how rows are padded, if not on the right: LEFT or UNSUITED.
        precision: the one precision that it computes in (precision.py); empty if that is every one.
        reads_last: whether the head reads the last token of a row, not the first.
        lacks: what the default targets do not reach, and why.
    """

    targets: tuple[str, ...]
    output: str = ""
    blocks: str = ""
    padding: str = ""
    precision: str = ""
    reads_last: bool = False
    lacks: str = ""

    @property
    def query_key_value(self) -> list[str]:
        """The three projections, in this order; empty if they are not three layers."""
        return list(self.targets) if len(self.targets) == 3 and self.output else []


_BERT = Family(("query", "key", "value"), "attention.output.dense", blocks="encoder")
_LIKE_BERT = Family(("query", "key", "value"), "attention.output.dense")
_UNPADDED = Family(("query", "key", "value"), "attention.output.dense", padding=UNSUITED)
_GATED = Family(("q_proj", "k_proj", "v_proj"), "o_proj")
_DECODER = Family(("q_proj", "k_proj", "v_proj"), "o_proj", reads_last=True)
_DENSE = "its attention has no weights: the default targets are its dense layers"
_PLAIN = "its attention holds tensors that are no layers: the default targets are its feed-forward layers"
_CONV = "its layers are Conv1d, which no adapter covers: the default target is its pooler alone"

FAMILIES = {
    "albert": Family(("query", "key", "value"), "attention.dense"),
    "bart": Family(("q_proj", "k_proj", "v_proj"), "out_proj", reads_last=True),
    "bert": _BERT,
    "big_bird": _LIKE_BERT,
    "camembert": _BERT,
    "convbert": _UNPADDED,
    "deberta": Family(("in_proj",), "attention.output.dense", precision="fp32"),
    "deberta-v2": Family(("query_proj", "key_proj", "value_proj"), "attention.output.dense"),
    "distilbert": Family(("q_lin", "k_lin", "v_lin"), "out_lin", blocks="transformer"),
    "electra": _BERT,
    "ernie": _BERT,
    "esm": _LIKE_BERT,
    "eurobert": _GATED,
    "fnet": Family(("intermediate.dense", "output.dense"), padding=UNSUITED, lacks=_DENSE),
    "funnel": Family(("q_head", "k_head", "v_head"), "post_proj"),
    "gpt2": Family(("c_attn",), "attn.c_proj", reads_last=True),
    "layoutlm": _LIKE_BERT,
    "llama": _DECODER,
    "longformer": Family(("query", "key", "value", "query_global", "key_global", "value_global")),
    "mobilebert": _UNPADDED,
    "modernbert": Family(("Wqkv",), "attn.Wo"),
    "mpnet": Family(("attn.q", "attn.k", "attn.v"), "attn.o"),
    "nomic_bert": _GATED,
    "nystromformer": _UNPADDED,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "rembert": _LIKE_BERT,
    "roberta": _BERT,
    "roformer": _LIKE_BERT,
    "squeezebert": Family(("pooler.dense",), lacks=_CONV),
    "t5": Family(("q", "k", "v"), "o", reads_last=True),
    "xlm": Family(("q_lin", "k_lin", "v_lin"), "out_lin"),
    "xlm-roberta": _BERT,
    "xlnet": Family(("layer_1", "layer_2"), padding=LEFT, reads_last=True, lacks=_PLAIN),
}


def family_name(model: nn.Module) -> str:
    """Return the model's family, or an empty string."""
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def family_of(model: nn.Module) -> Family | None:
    """Return the model's line in the table, or None."""
    return FAMILIES.get(family_name(model))


def family_note(model: nn.Module) -> str:
    """Return what the user of default targets should know about the family; mostly nothing."""
    if family := family_of(model):
        return family.lacks
    name = family_name(model) or type(model).__name__
    return f"no default targets for the family {name}: without --targets, every linear layer outside the head is adapted"


def default_heads(model: nn.Module) -> list[str]:
    """Return the modules with parameters outside the encoder, `model.base_model_prefix`.

    The output layer of a language model is no head of a classifier.
    """
    encoder = getattr(model, "base_model_prefix", None)
    if is_language_model(model) or not isinstance(getattr(model, encoder or "", None), nn.Module):
        return []
    outside = {name: child for name, child in model.named_children() if name != encoder}
    return [name for name, child in outside.items() if any(True for _ in child.parameters())]
