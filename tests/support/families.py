"""One small random classifier of each family that the project is tested with, and a record of a model down to its bits."""

from __future__ import annotations

import hashlib

import torch
import transformers
from support.tiny import VOCABULARY, tiny_distilbert
from support.tiny_models import tiny_model
from torch import nn

HIDDEN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "bert": ("BertConfig", "BertForSequenceClassification", HIDDEN | {"hidden_dropout_prob": 0.0}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", HIDDEN | {"hidden_dropout_prob": 0.0}),
    "electra": (
        "ElectraConfig",
        "ElectraForSequenceClassification",
        HIDDEN | {"embedding_size": 16, "hidden_dropout_prob": 0.0},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2ForSequenceClassification",
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 48, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
}


def tiny(family: str, *, labels: int = 3, seed: int = 0) -> nn.Module:
    """A two-layer classifier of width 32 with seeded random weights and no dropout, in evaluation mode."""
    if family == "distilbert":
        return tiny_distilbert(labels=labels, seed=seed)
    if family not in FAMILIES:
        return tiny_model(family, labels=labels, seed=seed)
    config_name, model_name, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    more = {"attention_probs_dropout_prob": 0.0} if family != "gpt2" else {}
    config = getattr(transformers, config_name)(
        vocab_size=VOCABULARY, num_labels=labels, max_position_embeddings=64, pad_token_id=0, **sizes, **more
    )
    return getattr(transformers, model_name)(config).eval()


def token_batch(*, rows: int = 4, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids with two padded rows, as the models take them."""
    ids = torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[:2, -2:], mask[:2, -2:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(model: nn.Module, **options: int) -> torch.Tensor:
    """What the model says to `token_batch`."""
    return model(**token_batch(**options)).logits


def record(model: nn.Module) -> dict[str, object]:
    """Every tensor's bits, dtype and requires_grad, every module's type and mode, in order: equal records, equal models."""
    tensors = {
        name: (
            str(t.dtype),
            tuple(t.shape),
            t.requires_grad,
            hashlib.sha256(t.detach().contiguous().view(torch.uint8).numpy()).hexdigest(),
        )
        for name, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    }
    modules = {name: (type(module).__name__, module.training) for name, module in model.named_modules()}
    return {"tensors": tensors, "modules": modules, "adapted": hasattr(model, "_adapter_state")}
