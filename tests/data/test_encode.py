"""Laws of lora_scratch/data/encode.py."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import pair_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lora_scratch.data import Encoded, encode
from lora_scratch.errors import ConfigError, DataError

CLS, SEP = 2, 3
ENCODE_FILE = import_module("lora_scratch.data.encode")  # as an attribute of the room, `encode` is the function


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A word tokenizer: a is 4, b is 5, between [CLS] and [SEP]; it reads at most 512 tokens."""
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP, "a": 4, "b": 5}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512)  # noqa: S106


def row(encoded: Encoded, index: int) -> list[int]:
    return encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]].tolist()


def test_encode_gives_the_tokenizers_ids_of_every_row(tokenizer: Any) -> None:
    """Row i is what the tokenizer gives for text i alone, special tokens included."""
    texts = ["a b", "", "b", "x a"]
    encoded = encode(texts, [0, 1, 0, 2], tokenizer, max_tokens=8)
    assert [row(encoded, i) for i in range(4)] == [tokenizer(text)["input_ids"] for text in texts]
    assert (encoded.tokens.dtype, encoded.offsets.dtype, encoded.labels.dtype) == (torch.int32, torch.int64, torch.int64)
    assert encoded.lengths.tolist() == [4, 2, 3, 4]
    assert encoded.labels.tolist() == [0, 1, 0, 2]
    assert len(encoded) == 4


def test_encode_counts_exactly_the_rows_it_cuts(tokenizer: Any) -> None:
    """A row that just fits is not cut; one token more is."""
    encoded = encode(["a " * 6, "a " * 7, "a", "a " * 100_000], [0] * 4, tokenizer, max_tokens=8)
    assert (encoded.truncated, encoded.max_tokens) == (2, 8)
    assert encoded.lengths.tolist() == [8, 8, 3, 8]
    assert row(encoded, 3) == [CLS, 4, 4, 4, 4, 4, 4, SEP]


def test_encode_is_the_same_whatever_the_chunk(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks bound memory and change nothing."""
    texts = [f"{'a ' * (i % 9)}b" for i in range(23)]
    whole = encode(texts, range(23), tokenizer, max_tokens=8)
    monkeypatch.setattr(ENCODE_FILE, "CHUNK_ROWS", 5)
    chunked = encode(texts, range(23), tokenizer, max_tokens=8)
    assert torch.equal(whole.tokens, chunked.tokens)
    assert torch.equal(whole.offsets, chunked.offsets)
    assert whole.truncated == chunked.truncated > 0


def test_select_gives_the_rows_asked_for_in_order(tokenizer: Any) -> None:
    """`select` may repeat and reorder; selecting nothing gives an empty set."""
    encoded = encode(["a b", "", "b", "a a a"], [0, 1, 2, 3], tokenizer, max_tokens=8)
    chosen = encoded.select([3, 1, 3, 0])
    assert [row(chosen, i) for i in range(4)] == [row(encoded, i) for i in (3, 1, 3, 0)]
    assert chosen.labels.tolist() == [3, 1, 3, 0]
    assert len(encoded.select([])) == 0


def test_lengths_are_computed_once(tokenizer: Any) -> None:
    """A step asks for them twice, of millions of rows: the very same tensor; a copy of the rows has its own."""
    encoded = encode(["a b", "", "b"], [0, 1, 2], tokenizer, max_tokens=8)
    assert encoded.lengths is encoded.lengths
    assert encoded.select([2, 0]).lengths.tolist() == [3, 4]
    assert encoded.to("meta").lengths.tolist() == encoded.lengths.tolist() == [4, 2, 3]


def test_encode_of_no_rows_is_empty(tokenizer: Any) -> None:
    """No text gives no token."""
    encoded = encode([], [], tokenizer, max_tokens=8)
    assert (len(encoded), encoded.tokens.numel(), encoded.lengths.numel()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("max_tokens", "message"), [(2, "2 leaves no room for the text; expected at least 3"), (513, "expected at most 512")]
)
def test_encode_refuses_a_length_out_of_range(tokenizer: Any, max_tokens: int, message: str) -> None:
    """At least one token of text, at most what the model reads."""
    with pytest.raises(ConfigError, match=f"--max_tokens: .*{message}"):
        encode(["a"], [0], tokenizer, max_tokens=max_tokens)


def test_encode_takes_any_length_when_the_tokenizer_states_no_limit(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers writes 1e30 for "no limit"."""
    monkeypatch.setattr(tokenizer, "model_max_length", int(1e30))
    assert encode(["a " * 1000], [0], tokenizer, max_tokens=2000).lengths.tolist() == [1002]


def test_encode_names_the_text_that_is_no_unicode(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command-line argument that was not UTF-8 arrives as a lone surrogate."""
    monkeypatch.setattr(ENCODE_FILE, "CHUNK_ROWS", 2)
    with pytest.raises(DataError, match="text 4: not valid Unicode at character 4"):
        encode(["a", "b", "a", "caf\udce9"], [0] * 4, tokenizer, max_tokens=8)


def test_encode_refuses_a_slow_tokenizer_or_missing_labels(tokenizer: Any) -> None:
    """Both would go wrong later, and elsewhere."""
    with pytest.raises(ConfigError, match="SimpleNamespace is a slow tokenizer"):
        encode(["a"], [0], SimpleNamespace(is_fast=False, model_max_length=512), max_tokens=8)
    with pytest.raises(DataError, match="1 texts and 2 labels"):
        encode(["a"], [0, 1], tokenizer, max_tokens=8)


def test_a_pair_is_joined_by_the_tokenizers_own_template() -> None:
    """Ids and token types are those of tokenizer(a, b)."""
    both = pair_tokenizer()
    encoded = encode(["a b", "b"], [0, 1], both, max_tokens=16, pairs=["b", "a a"])
    assert encoded.token_types is not None
    for i, pair in enumerate([("a b", "b"), ("b", "a a")]):
        expected = both(*pair)
        assert row(encoded, i) == expected["input_ids"]
        assert encoded.token_types[encoded.offsets[i] : encoded.offsets[i + 1]].tolist() == expected["token_type_ids"]
    assert encoded.select([1]).token_types.tolist() == both("b", "a a")["token_type_ids"]  # type: ignore[union-attr]


def test_a_cut_is_counted_for_each_side_of_a_pair() -> None:
    """The longer side loses tokens first; both are counted where both lose some."""
    texts, pairs = ["a " * 9, "a", "a " * 9, "a"], ["b", "b " * 9, "b " * 9, "b"]
    encoded = encode(texts, [0] * 4, pair_tokenizer(), max_tokens=8, pairs=pairs)
    assert (encoded.truncated, encoded.truncated_sides) == (3, (2, 2))
    assert encoded.lengths.tolist() == [8, 8, 8, 5]


def test_as_many_second_texts_as_texts() -> None:
    """One line, before any work."""
    with pytest.raises(DataError, match="2 texts and 1 second texts"):
        encode(["a", "b"], [0, 1], pair_tokenizer(), max_tokens=8, pairs=["a"])


@pytest.mark.parametrize("text", ["a " * 4000, " " * 900 + "a b " * 2000, "x" * 5000, "a" + " " * 5000 + "b"])
def test_a_very_long_text_is_tokenized_from_its_beginning_alone(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The same tokens and the same count of cut rows, at a bounded cost."""
    expected = encode([text], [0], tokenizer, max_tokens=16)
    monkeypatch.setattr(ENCODE_FILE, "LONG", 64)
    found = encode([text], [0], tokenizer, max_tokens=16)
    assert (row(found, 0), found.truncated) == (row(expected, 0), expected.truncated)
    starts = len(ENCODE_FILE.beginning(text, tokenizer, max_tokens=16))
    assert starts < len(text) or expected.truncated == 0


def test_a_text_whose_first_characters_hold_too_few_tokens_is_cut_there_and_counted(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of 20 MB without a word takes no minute, and is not cut without a word."""
    monkeypatch.setattr(ENCODE_FILE, "LONG", 16)
    monkeypatch.setattr(ENCODE_FILE, "MOST", 64)
    encoded = encode(["a" + " " * 80 + "b", "a b"], [0, 1], tokenizer, max_tokens=16)
    assert [row(encoded, i) for i in range(2)] == [[CLS, 4, SEP], [CLS, 4, 5, SEP]]
    assert encoded.truncated == 1


def test_what_the_model_will_not_see_is_said(tokenizer: Any) -> None:
    """Rows that are cut, and tokens that the tokenizer does not know; more than a few look like a wrong tokenizer."""
    encoded = encode(["a " * 60, "b x"], [0, 1], tokenizer, max_tokens=64)
    assert encoded.losses("train") == ["1 of 66 train tokens (1.5%) are unknown"]
    cut = encode(["x x x x"], [0], tokenizer, max_tokens=4).losses("test")
    assert cut[0] == "1 of 1 test rows are cut to 4 tokens"
    assert cut[1].startswith("2 of 4 test tokens (50.0%) are unknown; the tokenizer may not be the model's own")
    assert encode(["a"], [0], tokenizer, max_tokens=4).losses("test") == []
