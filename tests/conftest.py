"""What holds for every test: seeded randomness, the same examples on every machine, nothing from the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # here and in what tests start: two threads would wait for each other

import pytest
import torch
from hypothesis import Phase, settings

# under mutation.py a failure is to be noticed, not to be made small and explained
phases = [Phase.explicit, Phase.generate] if "MUTANT_UNDER_TEST" in os.environ else list(Phase)
settings.register_profile("house", deadline=None, derandomize=True, database=None, max_examples=50, phases=phases)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _seeded():
    """Each test starts from the same random state, so that none depends on those before it."""
    torch.manual_seed(0)
