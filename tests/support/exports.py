"""Exports without a second process, for tests of what is exported."""

import pytest

from lora_scratch.deploy import reload, run_exported


@pytest.fixture
def read_again_here(monkeypatch) -> None:
    """The program that reads an export is called, not started, which takes seconds; test_job.py starts it."""
    monkeypatch.setattr(reload, "in_new_process", run_exported.answer)
