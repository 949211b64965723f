"""What a base folder may hold that makes it another model than it seems: refused before it is measured."""

from __future__ import annotations

import os
from typing import Any

from ..errors import ModelError

ATTENTIONS = {None, "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"}  # transformers' own
ADAPTER_CONFIG = "adapter_config.json"


def check_no_adapter(name: str, model: Any) -> None:
    """Check that transformers loaded the base alone.

    Where peft is installed, it loads an adapter that stands in the same folder too. The "frozen baseline"
    would contain it, and an export would write that adapter in place of the model.

    Raises:
        ModelError: the folder holds an adapter, or the model has layers of one.
    """
    beside = os.path.isfile(os.path.join(name, ADAPTER_CONFIG))
    if beside or getattr(model, "_hf_peft_config_loaded", False) or any(".lora_" in key for key in model.state_dict()):
        what = f"the folder also holds an adapter ({ADAPTER_CONFIG})" if beside else "the model holds an adapter"
        remedy = "pass a folder with the base alone: move the adapter to its own, or merge it into the base"
        raise ModelError(what, where=name, expected="a base without an adapter", remedy=remedy)


def check_vocabulary(name: str, tokenizer: Any) -> None:
    """Check that the tokenizer knows more than its special tokens.

    Raises:
        ModelError: transformers made an empty one, because the tokenizer's files are not there.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        problem = f"its tokenizer knows nothing but {len(tokenizer)} special tokens"
        remedy = "put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the model"
        raise ModelError(problem, where=name, expected="a vocabulary", remedy=remedy)


def check_weights(name: str, model: Any) -> None:
    """Check that every weight is a number. A sum takes a twentieth of the time of looking at each.

    Raises:
        ModelError: one is NaN or infinite. Every result would be, and no setting of a training would help.
    """
    weights = [(key, weight.detach()) for key, weight in model.named_parameters() if weight.is_floating_point()]
    bad = [key for key, weight in weights if not weight.sum().isfinite() and not weight.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        remedy = "download or save the model again, or pass another --model"
        raise ModelError(f"its own weights hold NaN or infinity, in {bad[0]}{more}", where=name, remedy=remedy)


def check_attention(name: str, config: Any) -> None:
    """Check that config.json asks for no attention code from elsewhere: transformers would fetch and run it.

    Raises:
        ModelError: it does.
    """
    for name_of in ("_attn_implementation", "attn_implementation"):  # the second is an entry that old releases keep
        _check_wanted(name, getattr(config, name_of, None))


def _check_wanted(name: str, wanted: object) -> None:
    if wanted is not None and str(wanted).removeprefix("paged|") not in ATTENTIONS:
        problem, remedy = f"config.json asks for the attention {wanted!r}", "remove this entry from config.json"
        raise ModelError(problem, where=name, expected="none of its own", remedy=remedy)
