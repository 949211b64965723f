r"""The forward pass without padding: one sequence of all tokens, with attention within each row.

    (B, T) ids and mask -> (1, N) tokens -> encoder -> first tokens (B, 1, hidden) -> head

No model code is copied: transformers looks up its attention function by name, and passes to it the
keyword arguments of `forward` that the model does not know, here a `Packing`.

It saves the padding (3 % of the tokens in batches of like lengths), time and memory in attention
(fast/attention.py), and most of the last block: heads read only the first token of each row, so
queries and all that follows attention are computed for these alone.

On a CPU the forward pass packs a padded batch. On a GPU, where that would make the host wait, the
batch comes packed (fast/row_batch.py), and a padded one is computed with padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from ..model.families import FAMILIES, family_of
from .attention import attention
from .cuda_recorder import without_waits
from .first_tokens import can_absorb, first_token_attention
from .forwards import has_own_forward, replaced_forwards
from .onednn import rows_multiple
from .packing import Packing, pack
from .segments import Segments

NAME = "lora_scratch_packed"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | Segments | None = None,
    all_tokens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return softmax(q kᵀ · scaling) v within each row; without a packing, transformers' sdpa.

    Shape: query, key, value (1, heads, N, head_dim) -> (1, N, heads, head_dim). In the last block
        query and result have B tokens in place of N, and all_tokens is (1, N, hidden).
    """
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        inputs = (module, query, key, value, attention_mask)
        return sdpa_attention_forward(*inputs, **options)  # type: ignore[no-any-return]
    numbers = {"scaling": options["scaling"], "dropout": options.get("dropout", 0.0)}
    if isinstance(packing, Segments):
        q, k, v = (x.transpose(1, 2)[0] for x in (query, key, value))  # (N, heads, head_dim)
        if all_tokens is not None:
            k, v = (layer(all_tokens[0]).view(-1, *q.shape[1:]) for layer in _key_and_value(module))
        return packing.attend(q, k, v, **numbers)[None], None
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[-1]) for x in (query, key, value))
    if all_tokens is None:
        output = attention(q, k, v, packing, **numbers)
    else:
        output = _of_first_tokens(module, q, all_tokens[0], packing, **numbers)
    return output.view(1, -1, packing.heads, output.shape[-1]), None


def _of_first_tokens(module: Any, q: Tensor, x: Tensor, packing: Packing, **numbers: Any) -> Tensor:
    key, value = _key_and_value(module)
    if can_absorb(key) and can_absorb(value):
        return first_token_attention(q, x, key, value, packing, **numbers)
    k, v = (layer(x).view(-1, q.shape[-1]) for layer in (key, value))
    return attention(q, k, v, packing, **numbers)


def _key_and_value(module: Any) -> list[Any]:
    _, *names = FAMILIES[module.config.model_type].query_key_value
    return [getattr(module, name) for name in names]


def _mask(*, attention_mask: Tensor | None, **options: Any) -> Tensor | None:
    """Return no mask for a packed pass, and sdpa's for a padded one."""
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)


@cache
def _register() -> None:
    """Register at first use: importing transformers' models takes two seconds."""
    transformers.AttentionInterface.register(NAME, packed_attention)
    transformers.AttentionMaskInterface.register(NAME, _mask)


def can_pack(model: Any) -> bool:
    """Return whether tests prove that the packed pass of such a model equals the padded one."""
    config = getattr(model, "config", None)
    family = family_of(model)
    return (
        family is not None
        and bool(family.blocks)
        and isinstance(model, transformers.PreTrainedModel)
        and getattr(model, "_supports_attention_backend", False)  # looks attention up by name
        and type(model).__name__.endswith("ForSequenceClassification")
        and model.device.type in ("cpu", "cuda")
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
        # the model's property was renamed in transformers 5.23, the flags of the modules were not
        and not _any_module(model, "gradient_checkpointing")
        and not _any_module(model, "routes_rows")  # a bank's layers compute each row differently
        and not has_own_forward(model)  # someone else's wrapper
    )


def _any_module(model: nn.Module, flag: str) -> bool:
    return any(getattr(module, flag, False) for module in model.modules())


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Pack the batches of `classify(model, batch)` inside, if `can_pack(model)`."""
    if not can_pack(model) or is_packed(model):
        yield
        return
    _register()
    before = model.config._attn_implementation
    blocks = getattr(model.base_model, FAMILIES[model.config.model_type].blocks)
    hooks = (
        blocks.layer[-1].register_forward_pre_hook(_select_first_tokens, with_kwargs=True),
        blocks.register_forward_hook(_as_rows, with_kwargs=True),
    )
    model.set_attn_implementation(NAME)
    padded = model.forward if model.device.type == "cpu" else without_waits(model.forward)
    try:
        with replaced_forwards({model: partial(_forward, model, padded)}):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)


def is_packed(model: Any) -> bool:
    """Return whether the model is inside `packed`."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == NAME


def _forward(model: Any, padded: Any, *args: Any, **inputs: Any) -> Any:
    """Return the model's output, packed if the inputs are ids and a mask padded on the right."""
    ids, mask, types = (inputs.get(name) for name in INPUTS)
    segments = inputs.get("packing")
    if isinstance(segments, Segments):
        return padded(**inputs, position_ids=_positions_in(model, ids, segments))
    if args or inputs.keys() - {*INPUTS} or ids is None or mask is None or not _packs(mask):
        return padded(*args, **inputs)
    packing = pack(mask, heads=model.config.num_attention_heads, multiple=rows_multiple(_dtype_of(model)))
    tokens = partial(_tokens, real=mask.bool(), fillers=packing.fillers)
    return padded(
        input_ids=tokens(ids),
        position_ids=tokens(_positions(model, ids)),
        packing=packing,
        **({} if types is None else {"token_type_ids": tokens(types)}),
    )


def _tokens(values: Tensor, real: Tensor, fillers: int) -> Tensor:
    """Return the values of the tokens, and a 0 for each filler. Shape: (B, T) -> (1, N + fillers)."""
    return F.pad(values[real], (0, fillers))[None]


def _dtype_of(model: Any) -> torch.dtype:
    """Return the dtype of the products."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def _packs(mask: Tensor) -> bool:
    """Return whether every row has a token, and none after padding; a GPU is not asked.

    Shape: mask (B, T).
    """
    return mask.device.type == "cpu" and bool(mask[:, :1].all() and (mask[:, :-1] >= mask[:, 1:]).all())


def _positions(model: Any, input_ids: Tensor) -> Tensor:
    """Return the position of every token in its row, as the model counts. Shape: (B, T)."""
    embeddings = model.base_model.embeddings
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa
        positions = embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx)
        return positions  # type: ignore[no-any-return]
    return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape)


def _positions_in(model: Any, ids: Any, segments: Segments) -> Tensor:
    """Return the same for ids that come packed. Shape: ids (1, N) -> (1, N)."""
    embeddings = model.base_model.embeddings
    if not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return segments.position[None]
    numbered = (ids[0] != embeddings.padding_idx).long()  # RoBERTa: a padding token has no number
    before = (numbered.cumsum(0) - numbered)[segments.first]  # (R,)
    numbers = numbered.cumsum(0) - before[segments.row]
    positions: Tensor = numbers * numbered + embeddings.padding_idx
    return positions[None]


def _select_first_tokens(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Give the last block first tokens alone; its keys and values need all tokens."""
    packing: Packing | Segments | None = kwargs.get("packing")
    if packing is None:
        return None
    hidden, *others = args
    first = hidden.index_select(1, packing.first)
    return (first, *others), {**kwargs, "all_tokens": hidden}


def _as_rows(blocks: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Turn the first tokens (1, B, hidden) into rows of one token: heads read `hidden[:, 0]`."""
    if "packing" in kwargs:
        rows, packing = output.last_hidden_state.transpose(0, 1), kwargs["packing"]
        output.last_hidden_state = rows[: packing.rows] if isinstance(packing, Segments) else rows
    return output
