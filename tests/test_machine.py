"""tests/conftest.py: a test sees no GPU and an empty working folder, and leaves that folder empty."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CONFTEST = Path(__file__).parent / "conftest.py"
LEAVES_A_FILE = """
import os
from pathlib import Path

def test_leaves_a_file():
    Path("left").touch()

def test_says_which_gpus_it_sees():
    print("sees", repr(os.environ["CUDA_VISIBLE_DEVICES"]))
"""


@pytest.mark.skipif(os.environ.get("LORA_SCRATCH_GPU_TESTS") == "1", reason="the GPU was asked for")
def test_no_gpu_is_seen():
    """Also where there is one, so that a test of a CPU is one everywhere."""
    assert torch.cuda.device_count() == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # for the processes that tests start


def test_the_working_folder_is_empty():
    """Whatever lies where pytest was started."""
    assert list(Path().iterdir()) == []


def test_a_file_in_the_working_folder_is_an_error_and_the_gpu_is_there_for_the_asking(tmp_path):
    """What conftest.py promises is also what it does: in a process of its own, with a test that breaks the first promise."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_it.py").write_text(LEAVES_A_FILE)
    environment = {**os.environ, "LORA_SCRATCH_GPU_TESTS": "1", "CUDA_VISIBLE_DEVICES": "7"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "['left'] == []" in done.stdout
    assert "sees '7'" in done.stdout


def test_tests_read_text_as_utf_8():
    """Without a word, Python takes the encoding of the locale, which may be ASCII."""
    without = ".read_text" + "()"
    texts = {path.name: path.read_text(encoding="utf-8") for path in CONFTEST.parent.rglob("*.py")}
    assert sorted(name for name, text in texts.items() if without in text) == []
