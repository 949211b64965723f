"""scripts/benchmarks/watch.py and what it needs to know: how long a timing takes, and of which rows."""

from itertools import pairwise

import pytest
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from lora_scratch.commands.benchmarks.peer import sorted_together
from lora_scratch.commands.benchmarks.watch import Timing


def steps_until_the_end(timing, *, seconds=1.0):
    """How often it is told of a step before it ends the training."""
    count = 1
    while not timing.step(None, seconds=seconds, tokens=10):
        count += 1
    return count


@pytest.mark.parametrize(
    ("least_steps", "least_seconds", "sample", "steps"), [(3, 0, 1, 3), (3, 7.5, 1, 8), (3, 0, 16, 16), (5, 2, 4, 5)]
)
def test_a_timing_ends_with_enough_steps_seconds_and_a_whole_sample(least_steps, least_seconds, sample, steps):
    """Whichever comes last; warm steps come before, and are neither counted nor timed."""
    timing = Timing(least_steps, least_seconds, lambda: 0, warm=2, sample=sample)
    assert steps_until_the_end(timing) == 2 + steps
    assert (timing.steps, timing.seconds, timing.tokens) == (steps, steps, 10 * steps)


def test_the_peak_is_of_as_many_steps_for_a_fast_contender_as_for_a_slow_one():
    """Read until after the least steps: what a longer timing holds later is not compared."""
    held = iter(range(100))
    timing = Timing(3, 20, lambda: next(held), warm=1)
    assert steps_until_the_end(timing) == 21
    assert timing.peak_bytes == 3  # read after the warm step and three others


@pytest.mark.parametrize("rows", [64, 512, 2048])
def test_trainers_grouping_sorts_as_many_batches_as_we_say(rows):
    """Lengths fall within each group of batches, and rise where the next one begins."""
    batch = 32
    lengths = torch.randperm(10 * rows, generator=torch.Generator().manual_seed(0))[:rows].tolist()
    order = get_length_grouped_indices(lengths, batch, generator=torch.Generator().manual_seed(0))
    size = sorted_together(rows, batch) * batch
    later = [lengths[index] for index in order][size:]  # the longest row of all was brought to the front of the first
    rises = [place for place, (one, other) in enumerate(pairwise(later), 1) if other > one]
    assert len(rises) >= len(later) // size - 1
    assert all(place % size in (0, 1, size - 1) for place in rises)
