"""Measurements in this process: the start of one of their own takes longer than a small measurement."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

from support.command_line import call


def measured_here(script: ModuleType) -> Callable[..., Any]:
    """What takes the place of `in_a_process`: the last line that the script prints, read as JSON."""

    def run(command: list[str], **limits: object) -> Any:
        out = io.StringIO()
        with redirect_stdout(out):
            assert call(script, *command[2:]) == 0
        return json.loads(out.getvalue().splitlines()[-1])

    return run
