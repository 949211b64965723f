"""Pairs of texts: token types reach the model, padded and packed."""

from dataclasses import replace

import pytest
import torch
from support.passes import adapted, batch_of, largest_difference, logits_and_gradients
from support.tiny import pair_tokenizer

from lora_scratch.data import encode
from lora_scratch.evaluation import Predictor
from lora_scratch.fast.packed import packed
from lora_scratch.runtime.precision import Precision

CPU = Precision(torch.float32, torch.device("cpu"))
TEXTS = ["a b a", "b", "a a a a b", "b a"]
PAIRS = ["b b", "a b a", "b", "a a a"]


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_packed_logits_and_gradients_with_token_types_are_the_padded_ones(family):
    """Float32, no dropout: within 1e-5 of the largest entry; and the types matter."""
    model, batch = adapted(family), batch_of([7, 3, 5, 2])
    second = batch.attention_mask * (torch.arange(batch.input_ids.shape[1]) >= 2)
    typed = replace(batch, token_type_ids=second)
    expected = logits_and_gradients(model, typed)
    with packed(model):
        assert largest_difference(logits_and_gradients(model, typed), expected) < 1e-5
    assert largest_difference(logits_and_gradients(model, batch), expected) > 1e-3


@pytest.mark.parametrize("plain", [False, True])
def test_logits_of_pairs_are_those_of_the_tokenizer_and_the_model(plain):
    """What `model(**tokenizer(a, b))` gives for each pair alone, in batches, padded or packed."""
    tokenizer, model = pair_tokenizer(), adapted("bert").eval()
    encoded = encode(TEXTS, [0] * 4, tokenizer, max_tokens=16, pairs=PAIRS)
    found = Predictor(model, CPU, tokenizer.pad_token_id, plain=plain).logits(encoded)
    with torch.no_grad():
        alone = [model(**tokenizer(a, b, return_tensors="pt")).logits for a, b in zip(TEXTS, PAIRS, strict=True)]
    expected = torch.cat(alone)
    assert (found - expected).abs().max() < 1e-5 * expected.square().mean().sqrt()
