"""scripts/benchmarks/emotion_shape.py: made-up rows of the real data set's lengths."""

import pytest

from lora_scratch.commands.benchmarks.emotion_shape import COUNTS, SIZES, emotion_lengths, emotion_shaped_splits
from lora_scratch.demo.tokenizer import demo_tokenizer


def test_the_histogram_is_that_of_the_16000_training_rows():
    """Its sum and its mean are known."""
    assert sum(COUNTS) == 16_000
    assert sum(count * (4 + place) for place, count in enumerate(COUNTS)) / 16_000 == pytest.approx(22.2595)


@pytest.mark.parametrize("count", [64, 192, 2048])
def test_few_rows_have_the_mean_length_of_all(count):
    """Within a hundredth: a timing of few steps does work of the real size."""
    assert sum(emotion_lengths(count)) / count == pytest.approx(22.26, rel=0.01)


def test_rows_have_these_lengths_for_the_demos_tokenizer_and_depend_on_the_seed_alone():
    """One token a word."""
    splits, tokenizer = emotion_shaped_splits(seed=3), demo_tokenizer()
    for name in ("train", "validation", "test"):
        lengths = [len(ids) for ids in tokenizer([row.text for row in getattr(splits, name)])["input_ids"]]
        assert sorted(lengths) == emotion_lengths(SIZES[name])
        assert lengths != sorted(lengths)
    assert splits.digests == emotion_shaped_splits(seed=3).digests != emotion_shaped_splits(seed=4).digests
