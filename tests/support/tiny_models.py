"""A tiny random classifier of every family in the table, with a tiny tokenizer, as `save_pretrained` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

SENTENCE = "the film is good bad great awful plot actor story and very not so dull bright happy sad ends well"
WORDS = (*"abcdefghijklmnopqrstuvwxyz", *SENTENCE.split())
SPECIAL = ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>")
PAD, CLS, SEP = 0, 2, 3
VOCABULARY = 64
POSITIONS = 80

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER = WIDTH | {"intermediate_size": 48}
BERT = ENCODER | {"max_position_embeddings": POSITIONS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DECODER = ENCODER | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": POSITIONS}
ROPE = {"max_position_embeddings": POSITIONS}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
GPT |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
T5 |= {"decoder_start_token_id": PAD}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48, "dropout": 0.0, "summary_last_dropout": 0.0}
MODERN = ENCODER | ROPE | {"local_attention": 8, "global_attn_every_n_layers": 2}
MODERN |= {"embedding_dropout": 0.0, "mlp_dropout": 0.0}
FNET = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, **ROPE, "hidden_dropout_prob": 0.0}
CONV = BERT | {"embedding_size": 32, "conv_kernel_size": 3, "head_ratio": 1, "classifier_dropout": 0.0}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
    "dropout": 0.0,
    "decoder_start_token_id": SEP,
}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}

# model_type -> (start of the class names, settings)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert": (
        "DistilBert",
        {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "seq_classif_dropout": 0.0, **NO_DROPOUT}
        | {"max_position_embeddings": POSITIONS},
    ),
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", BERT),
    "xlm-roberta": ("XLMRoberta", BERT),
    "camembert": ("Camembert", BERT),
    "electra": ("Electra", BERT | {"embedding_size": 16}),
    "deberta": ("Deberta", BERT | {"pos_att_type": ["c2p", "p2c"], "relative_attention": True}),
    "deberta-v2": (
        "DebertaV2",
        BERT
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm"}
        | {"position_buckets": 16, "position_biased_input": False, "type_vocab_size": 0},
    ),
    "modernbert": ("ModernBert", MODERN),
    "albert": ("Albert", BERT | {"embedding_size": 16}),
    "mpnet": ("MPNet", BERT),
    "xlnet": (
        "XLNet",
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48, "dropout": 0.0, "summary_last_dropout": 0.0},
    ),
    "ernie": ("Ernie", BERT),
    "rembert": ("RemBert", BERT | {"input_embedding_size": 16, "classifier_dropout_prob": 0.0}),
    "roformer": ("RoFormer", BERT | {"embedding_size": 32}),
    "convbert": (
        "ConvBert",
        BERT | {"embedding_size": 32, "conv_kernel_size": 3, "head_ratio": 1, "classifier_dropout": 0.0},
    ),
    "fnet": (
        "FNet",
        {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, **ROPE, "hidden_dropout_prob": 0.0},
    ),
    "squeezebert": (
        "SqueezeBert",
        BERT | {"embedding_size": 32, **{f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "output")}},
    ),
    "mobilebert": (
        "MobileBert",
        BERT | {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32, "num_feedforward_networks": 2},
    ),
    "funnel": (
        "Funnel",
        {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48}
        | {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
    ),
    "nystromformer": ("Nystromformer", BERT | {"segment_means_seq_len": 16, "num_landmarks": 16, "conv_kernel_size": 3}),
    "big_bird": ("BigBird", BERT | {"block_size": 4, "num_random_blocks": 1}),
    "longformer": ("Longformer", BERT | {"attention_window": 8}),
    "esm": ("Esm", BERT | {"position_embedding_type": "rotary", "mask_token_id": 4}),
    "layoutlm": ("LayoutLM", BERT | {"max_2d_position_embeddings": 16}),
    "eurobert": ("EuroBert", ENCODER | ROPE | {"num_key_value_heads": 2, "attention_dropout": 0.0}),
    "nomic_bert": ("NomicBert", BERT),
    "llama": ("Llama", DECODER | {"attention_dropout": 0.0}),
    "gpt2": ("GPT2", GPT),
    "qwen2": ("Qwen2", DECODER | {"attention_dropout": 0.0}),
    "qwen3": ("Qwen3", DECODER | {"attention_dropout": 0.0}),
    "t5": ("T5", T5),
    "bart": ("Bart", BART),
    "xlm": ("XLM", {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": POSITIONS, **NO_DROPOUT}),
}


def tiny_tokenizer(*, pad: bool = True) -> Any:
    """A fast tokenizer of whole words, with `<cls> text <sep>` and the pair template of BERT."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *dict.fromkeys(WORDS)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<cls>", CLS), ("<sep>", SEP)],
    )
    tokens = {"unk": "<unk>", "cls": "<cls>", "sep": "<sep>", "mask": "<mask>", "eos": "<sep>", "pad": "<pad>"}
    names = {f"{name}_token": token for name, token in tokens.items() if pad or name != "pad"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS - 8, **names)


def tiny_model(family: str, *, labels: int = 3, seed: int = 0, pad: bool = True, **changes: Any) -> nn.Module:
    """A two-layer classifier of width 32 with seeded random weights and no dropout, in evaluation mode."""
    name, settings = CONFIGS[family]
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(seed)
    tokens = {"pad_token_id": PAD if pad else None, "bos_token_id": CLS, "eos_token_id": SEP}
    options = {"vocab_size": VOCABULARY, "num_labels": labels, **tokens, **settings, **changes}
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


def save_tiny(family: str, folder: Path, *, labels: int = 3, pad: bool = True, **changes: Any) -> Path:
    """Save such a model with its tokenizer."""
    tiny_model(family, labels=labels, pad=pad, **changes).save_pretrained(folder)
    tiny_tokenizer(pad=pad).save_pretrained(folder)
    return folder
