"""A test that hangs is a test that fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_hang(*, within_s: int = 30) -> Iterator[None]:
    """Raise TimeoutError in what is still running then. Most of what is tried takes milliseconds; a busy machine is slow."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"more than {within_s} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(within_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
