"""The demo's tokenizer: nothing of the corpus is lost, and nothing else makes it fail."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from lora_scratch.demo.corpus import emotion_corpus, sentiment_corpus
from lora_scratch.demo.tokenizer import MAX_TOKENS, demo_tokenizer
from lora_scratch.demo.words import FEELINGS


def test_corpus_is_tokenised_without_unknowns_and_comes_back() -> None:
    """decode(encode(text)) is the text, spaces before punctuation aside, and one token is one word."""
    tokenizer = demo_tokenizer()
    for example in (*emotion_corpus(200), *sentiment_corpus(200)):
        ids = tokenizer(example.text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= MAX_TOKENS
        back = tokenizer.decode(ids, skip_special_tokens=True)
        assert back.replace(" ", "") == example.text.replace(" ", "")


def test_feelings_are_single_tokens() -> None:
    """A feeling can be recalled at one [MASK]."""
    tokenizer = demo_tokenizer()
    words = [word for group in FEELINGS.values() for word in group]
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(words)


def test_unknown_words_are_spelt_out() -> None:
    """A word the corpus lacks becomes its letters; upper case and accents make no difference."""
    tokenizer = demo_tokenizer()
    assert tokenizer.tokenize("Zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert tokenizer.tokenize("ÉCLAIR") == tokenizer.tokenize("eclair")
    assert tokenizer.tokenize("👍") == ["[UNK]"]


def test_saved_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    """transformers reads back what it wrote, special tokens included."""
    tokenizer = demo_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("i am not xyz.")["input_ids"] == tokenizer("i am not xyz.")["input_ids"]
    assert (loaded.pad_token, loaded.mask_token, loaded.model_max_length) == ("[PAD]", "[MASK]", MAX_TOKENS)
