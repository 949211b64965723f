"""All adapters of the page. One request at a time changes a model, and none leaves a trace in it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .played import PlayedAdapter
from .state import State


class Playground:
    """The adapters by their names on the page."""

    def __init__(self, adapters: Mapping[str, PlayedAdapter]) -> None:
        self.adapters = dict(adapters)
        self._lock = threading.Lock()

    def describe(self) -> list[dict[str, Any]]:
        """Return what can be chosen, adapter by adapter."""
        with self._lock:
            return [adapter.description(name) for name, adapter in self.adapters.items()]

    def answer(self, state: State) -> dict[str, Any]:
        """Return what the page shows in this state. Raises as `PlayedAdapter.answer`."""
        if state.adapter not in self.adapters:
            expected = ", ".join(self.adapters)
            raise ConfigError(f"there is no adapter {state.adapter!r}", where="play", expected=expected)
        with self._lock:
            return self.adapters[state.adapter].answer(state)
