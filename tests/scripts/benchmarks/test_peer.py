"""Trainer as a contender, by the names that each transformers gives its settings."""

import pytest

from lora_scratch.commands.benchmarks.peer import _as_spelled

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
