"""A WordPiece tokenizer over the words of the demo corpus."""

from __future__ import annotations

import string

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from .corpus import corpus_words

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_TOKENS = 128


def demo_vocabulary() -> dict[str, int]:
    """Return token -> id: special tokens, the words of the corpus, single characters.

    Characters at the start ("x") and inside ("##x") of a word spell words that the corpus lacks.
    """
    characters = string.ascii_lowercase + string.digits
    pieces = [*characters, *(f"##{c}" for c in characters), *string.punctuation]
    tokens = [*SPECIAL_TOKENS, *corpus_words(), *pieces]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def demo_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a lower-casing WordPiece tokenizer in BERT's format: [CLS] text [SEP]."""
    vocabulary = demo_vocabulary()
    options = {"unk_token": "[UNK]", "max_input_chars_per_word": 100}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, **options))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
    )
