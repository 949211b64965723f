"""Trainer as a contender, by the names that each transformers gives its settings."""

import pytest
from support.tiny import pair_tokenizer, tiny_distilbert, tiny_rows

from lora_scratch.commands.benchmarks.peer import _as_spelled, build_full, train_peer
from lora_scratch.commands.benchmarks.watch import Clock
from lora_scratch.commands.benchmarks.work import Work
from lora_scratch.data import Splits
from lora_scratch.model.base import Base
from lora_scratch.training import TrainingConfig

GROUPED = {"bf16": True, "train_sampling_strategy": "group_by_length"}


@pytest.mark.parametrize(
    ("known", "spelled"),
    [
        ({"bf16", "train_sampling_strategy"}, GROUPED),
        ({"bf16", "group_by_length"}, {"bf16": True, "group_by_length": True}),
    ],
)
def test_batches_by_length_are_asked_for_by_the_name_that_transformers_knows(known, spelled):
    """transformers 5.2 made one setting of several flags."""
    assert _as_spelled(known, GROUPED) == spelled


def test_settings_without_a_sampler_stay_as_they_are():
    """Whatever the release."""
    assert _as_spelled({"bf16", "group_by_length"}, {"bf16": True}) == {"bf16": True}


def test_the_tokens_of_validation_rows_are_not_counted():
    """Two epochs, validated after each: the clock has the tokens of the training rows, twice."""
    rows, splits = tiny_rows(24), Splits((), (), (), labels=("a", "b", "c"), source="tiny")
    base, training = Base(tiny_distilbert(), pair_tokenizer(), "tiny", ()), TrainingConfig(epochs=2, batch_size=8)
    work, clock = Work(base, splits, {}, None, training, 1), Clock()
    train_peer(build_full(work), work, rows, clock, validation=tiny_rows(40, seed=1))
    assert clock.tokens == 2 * int(rows.lengths.sum())
