"""One saved adapter folder, and copies of it."""

import shutil

import pytest
from support.adapter_files import adapted

from lora_scratch.serialization import save_adapter


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One saved folder, to be copied and damaged."""
    return save_adapter(adapted(), tmp_path_factory.mktemp("good") / "adapter", base_model="tiny/base")


@pytest.fixture
def folder(good, tmp_path):
    """A copy of it."""
    return shutil.copytree(good, tmp_path / "adapter")
