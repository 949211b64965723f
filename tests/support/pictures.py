"""Pages without their drawings: to lay them out takes three quarters of a small job's time, and is tested by itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest

from lora_scratch.reporting import drawing


def quick_pictures() -> AbstractContextManager[object]:
    """Whatever a page draws is computed as ever, and then written as an empty <svg>."""
    return mock.patch.object(drawing, "_element", _empty)


def _empty(figure: Any, salt: str) -> str:
    return ' viewBox="0 0 1 1"></svg>'


@pytest.fixture(scope="module", autouse=True)
def pages_without_drawings():
    """For all tests of a module that imports this name, or of a folder whose conftest.py does."""
    with quick_pictures():
        yield
