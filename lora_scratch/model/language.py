"""Language models: their output layer has one output per token, not one per label.

`lm_head` of Llama, GPT-2 and T5, `cls` of BERT. An adapter leaves it as it is by default: it is as
large as the vocabulary, often tied to the input embeddings, and trained already.
"""

from __future__ import annotations

from torch import nn


def is_language_model(model: nn.Module) -> bool:
    """Return whether the model has output embeddings, as transformers calls that layer."""
    return _output_embeddings(model) is not None


def language_heads(model: nn.Module) -> list[str]:
    """Return the modules around the output embeddings of a language model; none for another one."""
    output = _output_embeddings(model)
    if output is None:
        return []
    encoder = getattr(model, "base_model_prefix", None)
    children = {name: child for name, child in model.named_children() if name != encoder}
    if isinstance(getattr(model, encoder or "", None), nn.Module):
        return list(children)
    return [name for name, child in children.items() if output in child.modules()]


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    layer = get() if callable(get) else None
    return layer if isinstance(layer, nn.Module) else None
