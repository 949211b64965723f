r"""Classify a batch without its padding: tokens in one row through everything that is token-wise, rows apart for attention.

    (B, T) ids and mask  ->  (1, N) real tokens  ->  encoder  ->  first tokens (B, 1, hidden)  ->  the model's own head

No model code is copied. transformers looks its attention function up by a name and hands it every keyword argument of the
model's `forward` that the model does not know: that is how the `Packing` of a batch travels to the layers.

Three things are saved. Padding: after length-aware batching 3 % of the tokens, more where lengths vary more. Time and memory
in attention (attention.py). And most of the last block: its queries, and all that follows attention, are computed for the
first token of each row alone, since heads read no other.

A call with anything but ids and a mask that is padded on the right takes the model's padded path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..model.families import FAMILIES, family_of
from .attention import attention
from .first_tokens import can_absorb, first_token_attention
from .packing import Packing, pack

NAME = "lora_scratch_packed"


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    packing: Packing | None = None,
    all_tokens: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """softmax(q kᵀ · scaling) v within each row of the batch; without a packing, transformers' own sdpa.

    Shape: query, key, value (1, heads, N, head_dim) -> (1, N, heads, head_dim). With `all_tokens` (1, N, hidden), the input
        of a last block that was itself called with first tokens alone: query (1, heads, B, head_dim), and so is the result.
    """
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return padded
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[-1]) for x in (query, key, value))  # (N·heads, head_dim), views
    options = {"scaling": scaling, "dropout": dropout}
    if all_tokens is None:
        mixed = attention(q, k, v, packing, **options)
    else:
        mixed = _of_first_tokens(module, q, all_tokens[0], packing, **options)
    return mixed.view(1, -1, packing.heads, mixed.shape[-1]), None


def _of_first_tokens(module: Any, q: Tensor, x: Tensor, packing: Packing, **options: Any) -> Tensor:
    parts = FAMILIES[module.config.model_type]
    key, value = (getattr(module, name) for name in (parts.key, parts.value))
    if can_absorb(key) and can_absorb(value):
        return first_token_attention(q, x, key, value, packing, **options)
    k, v = (layer(x).view(-1, q.shape[-1]) for layer in (key, value))
    return attention(q, k, v, packing, **options)


def _mask(*, attention_mask: Tensor | None, **others: Any) -> Tensor | None:
    """A packed pass has no mask; one with a mask is a padded pass."""
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **others)


@cache
def _register() -> None:
    """When it is first needed: importing what a model is made of takes transformers two seconds."""
    transformers.AttentionInterface.register(NAME, packed_attention)
    transformers.AttentionMaskInterface.register(NAME, _mask)


def can_pack(model: Any) -> bool:
    """Whether this is a model whose padded path the packed one has been proven equal to, on a CPU."""
    config = getattr(model, "config", None)
    return (
        family_of(model) is not None
        and isinstance(model, transformers.PreTrainedModel)
        and _looks_attention_up(model)
        and type(model).__name__.endswith("ForSequenceClassification")
        and model.device.type == "cpu"
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
        and not _checkpoints_activations(model)
        and not _tells_rows_apart(model)
        and "forward" not in vars(model)  # someone else's wrapper
    )


def _looks_attention_up(model: transformers.PreTrainedModel) -> bool:
    """Whether the model takes its attention function by name, as transformers says of each family."""
    return bool(getattr(model, "_supports_attention_backend", False))


def _checkpoints_activations(model: nn.Module) -> bool:
    """Whether a module computes activations again in the backward pass.

    The property of the model that says so was renamed in transformers 5.23; the flags were not.
    """
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _tells_rows_apart(model: nn.Module) -> bool:
    """Whether a layer does something else for every row, as a bank's layers do: packed, rows are one."""
    return any(getattr(module, "routes_rows", False) for module in model.modules())


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Inside, `classify(model, batch)` is packed if `can_pack(model)`. Afterwards the model has the attention it had."""
    if not can_pack(model) or is_packed(model):
        yield
        return
    _register()
    before = model.config._attn_implementation
    blocks = getattr(model.base_model, FAMILIES[model.config.model_type].blocks)
    hooks = (
        blocks.layer[-1].register_forward_pre_hook(_first_tokens, with_kwargs=True),
        blocks.register_forward_hook(_as_rows, with_kwargs=True),
    )
    model.set_attn_implementation(NAME)
    model.forward = partial(_forward, model, model.forward)
    try:
        yield
    finally:
        del model.forward  # the class's own shows again
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)


def is_packed(model: Any) -> bool:
    """Whether the model is inside `packed`."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == NAME


def _forward(model: Any, padded: Any, *args: Any, **inputs: Any) -> Any:
    """The model's output for a batch: packed if it is ids and a mask that is padded on the right, else padded."""
    if args or set(inputs) != {"input_ids", "attention_mask"} or not _right_padded(inputs["attention_mask"]):
        return padded(*args, **inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    real = mask.bool()
    packing = pack(mask, heads=model.config.num_attention_heads)
    return padded(input_ids=ids[real][None], position_ids=_positions(model, ids)[real][None], packing=packing)  # (1, N)


def _right_padded(mask: Tensor) -> bool:
    """Every row has a token, and no token follows filling. Shape: mask (B, T)."""
    return bool(mask[:, :1].all() and (mask[:, :-1] >= mask[:, 1:]).all())


def _positions(model: Any, input_ids: Tensor) -> Tensor:
    """The position of every token in its row, as the model counts. Shape: (B, T)."""
    embeddings = model.base_model.embeddings
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa counts from padding_idx + 1
        found: Tensor = embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx)
        return found
    return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape)


def _first_tokens(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Heads read first tokens alone, so the last block computes these alone; its keys and values need all tokens."""
    packing: Packing | None = kwargs.get("packing")
    if packing is None:
        return None
    hidden, *others = args
    return (hidden.index_select(1, packing.first), *others), {**kwargs, "all_tokens": hidden}


def _as_rows(blocks: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Heads read `hidden[:, 0]`: the first tokens (1, B, hidden) as rows of one token, (B, 1, hidden)."""
    if "packing" in kwargs:
        output.last_hidden_state = output.last_hidden_state.transpose(0, 1)
    return output
