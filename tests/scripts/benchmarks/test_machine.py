"""scripts/benchmarks/machine.py: the kind of machine that tables name; and the names of the files beside it."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lora_scratch.commands.benchmarks import machine

FOLDER = Path(machine.__file__).parent


@pytest.mark.parametrize(
    ("amx", "bf16", "capability", "kind"),
    [
        (True, True, "AVX512", "AMX"),
        (False, True, "AVX512", "AVX-512 bf16"),
        (False, False, "AVX512", "AVX-512"),
        (False, False, "AVX2", "AVX2"),
    ],
)
def test_the_kind_of_a_cpu_is_its_best_instructions_for_matrices(amx, bf16, capability, kind, monkeypatch):
    """They decide how fast a bf16 product is, several times over."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert machine.machine_kind(torch.device("cpu")) == kind


def test_a_table_of_a_gpu_names_the_gpu_and_not_the_cpu(monkeypatch):
    """Its name, its memory and the version of CUDA."""
    gpu = SimpleNamespace(name="NVIDIA H200", total_memory=141 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert machine.machine_kind(torch.device("cuda")) == "NVIDIA H200, 141 GiB, CUDA 13.0"


def test_no_file_of_the_benchmark_hides_a_module_from_a_script():
    """Python looks first in the folder of the script that runs, so a file named `json.py` there would be `json`."""
    names = {path.stem for path in FOLDER.iterdir()} - {"__init__", "__pycache__"}
    assert "benchmark" in names
    assert not names & sys.stdlib_module_names
    assert [name for name in names if find_spec(name)] == []
