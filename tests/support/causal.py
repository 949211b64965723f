"""Small random language models and an image classifier, as users load them: no classifier of texts among them."""

from __future__ import annotations

import torch
import transformers
from torch import nn

VOCABULARY, WIDTH = 50, 32
LLAMA = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
MODELS = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 40}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "bert": ("BertConfig", "BertForMaskedLM", LLAMA),
    "vit": ("ViTConfig", "ViTForImageClassification", LLAMA | {"image_size": 16, "patch_size": 8, "num_labels": 3}),
}
TARGETS = {"gpt2": "c_attn", "llama": "q_proj", "t5": "q", "bert": "value", "vit": "q_proj"}


def user_model(kind: str, **settings: object) -> nn.Module:
    """One of MODELS with seeded random weights, in evaluation mode."""
    config, model, sizes = MODELS[kind]
    torch.manual_seed(0)
    more = {} if kind == "vit" else {"vocab_size": VOCABULARY}
    return getattr(transformers, model)(getattr(transformers, config)(**{**sizes, **more, **settings})).eval()


def user_inputs(kind: str) -> dict[str, torch.Tensor]:
    """Two rows for the model's forward."""
    generator = torch.Generator().manual_seed(0)
    if kind == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=generator)
    return {"input_ids": ids, "decoder_input_ids": ids} if kind == "t5" else {"input_ids": ids}
