"""What holds for every test: seeded randomness, the same examples on every machine, nothing from the network.

A test sees the same machine everywhere: an empty working folder, and no GPU. `LORA_SCRATCH_GPU_TESTS=1` shows the GPU; it is
for the tests that need one (`-k gpu`), since the others are meant for a CPU.
"""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # here and in what tests start: two threads would wait for each other
if os.environ.get("LORA_SCRATCH_GPU_TESTS", "") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported; also for the processes that tests start

import pytest
import torch
from hypothesis import Phase, settings

from lora_scratch.fast import onednn
from lora_scratch.runtime import garbage

# under mutation.py a failure is to be noticed, not to be made small and explained
phases = [Phase.explicit, Phase.generate] if "MUTANT_UNDER_TEST" in os.environ else list(Phase)
settings.register_profile("house", deadline=None, derandomize=True, database=None, max_examples=50, phases=phases)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _empty_folder(tmp_path_factory):
    """The working folder of all tests, so that none depends on what lies in yours (`checkpoints/` of an earlier run)."""
    if "MUTANT_UNDER_TEST" in os.environ:  # mutmut's own files lie in its working folder
        yield Path()
        return
    before, folder = Path.cwd(), tmp_path_factory.mktemp("empty")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(autouse=True)
def _nothing_is_left_in_the_working_folder(_empty_folder):
    """A file with a relative path would be there for the next test."""
    yield
    left = [] if "MUTANT_UNDER_TEST" in os.environ else sorted(path.name for path in _empty_folder.iterdir())
    assert left == []


@pytest.fixture(autouse=True)
def _seeded():
    """Each test starts from the same random state, so that none depends on those before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_command_owns_this_process():
    """Many run in it, one after another: what one leaves to the end of its process would stay here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(garbage, "put_off", lambda: None)
        yield


def _computing():
    """What decides the last bits of a product in this process, beside its operands."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return {
        "threads": torch.get_num_threads(),
        "float32 products": getattr(matmul, "fp32_precision", None),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "AMX": torch.cpu._is_amx_tile_supported,
        "oneDNN": (onednn.LARGE, onednn._gain, onednn._error),
    }


@pytest.fixture(autouse=True)
def _the_way_of_computing_is_left_as_it_was():
    """A test that leaves another one changes the bits of those after it."""
    before = _computing()
    yield
    assert _computing() == before
