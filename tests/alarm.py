"""A test that hangs is a test that fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

WITHIN_S = 20  # the work takes milliseconds; on a busy machine more


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise TimeoutError in what is still running after 20 seconds."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"more than {WITHIN_S} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(WITHIN_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
