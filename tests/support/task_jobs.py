"""A trained adapter of every task on one tiny base: several labels, a number, and a pair of texts with one label."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from support.command_line import call
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

MULTI_LABEL, NUMBER, PAIR = "several", "number", "pair"
COLORS = ("red", "green", "blue")
WORDS = (*COLORS, "good", "bad", "the", "a", "house", "tree", "is", "was", "not", "very")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SPLITS = {"train": 96, "validation": 40, "test": 40}


def save_bert_base(folder: Path) -> Path:
    """A BERT of two layers with token types, and a tokenizer of a few words with BERT's template for pairs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=64, initializer_range=0.3, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, model_input_names=names, **special)
    tokenizer.save_pretrained(folder)
    return folder


def row_of(kind: str, generator: random.Random) -> dict[str, object]:
    """A row whose label can be read from its words."""
    words = generator.choices(WORDS, k=generator.randint(3, 9))
    if kind == MULTI_LABEL:
        return {"text": " ".join(words), "label": [color for color in COLORS if color in words]}
    if kind == NUMBER:
        score = 2.5 + 0.75 * (words.count("good") - words.count("bad"))
        return {"text": " ".join(words), "label": score}
    second = [generator.choice(("good", "bad")), *generator.choices(WORDS[5:], k=3)]
    same = "same" if second[0] in words else "other"
    return {"text": " ".join(words), "second": " ".join(second), "label": same}


def train_task(place: Path, base: Path, kind: str, *, seed: int = 0) -> Path:
    """Train an adapter in a few steps; return its folder."""
    from lora_scratch.commands import train

    generator, data = random.Random(seed), place / "data"  # noqa: S311
    data.mkdir(parents=True)
    for name, count in SPLITS.items():
        rows = [json.dumps(row_of(kind, generator)) for _ in range(count)]
        (data / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    small = ["--epochs", 3, "--batch_size", 16, "--learning_rate", 2e-3, "--max_tokens", 32, "--rank", 4, "--alpha", 8]
    pair = ["--pair_column", "second"] if kind == PAIR else []
    folders = ["--model", base, "--dataset", data, "--output_dir", place / "run"]
    assert call(train, *folders, "--precision", "fp32", *small, *pair, "--linear_probe", "true") == 0
    return place / "run" / "adapter"
