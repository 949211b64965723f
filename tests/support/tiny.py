"""Small random models and rows that the tests share: the shapes of the real families, a few thousand parameters."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from lora_scratch.data import Encoded

VOCABULARY = 60


def tiny_distilbert(
    *, labels: int = 3, seed: int = 0, layers: int = 2, dropout: float = 0.0, vocabulary: int = VOCABULARY
) -> DistilBertForSequenceClassification:
    """A DistilBERT of width 32 with seeded random weights, in evaluation mode."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=vocabulary,
        dim=32,
        hidden_dim=48,
        n_layers=layers,
        n_heads=2,
        num_labels=labels,
        max_position_embeddings=64,
        dropout=dropout,
        attention_dropout=dropout,
        seq_classif_dropout=dropout,
    )
    return DistilBertForSequenceClassification(config).eval()


def tiny_conv1d(outputs: int, inputs: int) -> Conv1D:
    """A Conv1D whose bias is not zero, as that of a new one is: a bias that got lost would not show."""
    conv = Conv1D(outputs, inputs)
    torch.nn.init.normal_(conv.bias)
    return conv


def tiny_rows(count: int = 48, *, labels: int = 3, seed: int = 0, longest: int = 12) -> Encoded:
    """Random rows of uneven lengths whose label is the remainder of their second token: learnable from the text."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (count,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.randint(1, VOCABULARY, (int(offsets[-1]),), generator=generator, dtype=torch.int32)
    answers = tokens[offsets[:-1] + 1].to(torch.int64) % labels
    return Encoded(tokens=tokens, offsets=offsets, labels=answers, truncated=0, max_tokens=longest)


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """A word tokenizer with BERT's template for pairs and token types: a is 4, b is 5; at most 512 tokens."""
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, model_input_names=names, **special)
