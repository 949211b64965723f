"""SIGINT (Ctrl-C), SIGTERM and SIGHUP stop a run after the current step; a second Ctrl-C at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class StopRequest:
    """The first signal that came, if any."""

    signal: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record a signal inside instead of ending the process. Afterwards restore the old handlers.

    A signal that the process was started to ignore stays ignored. Threads get none.

    Raises:
        KeyboardInterrupt: SIGINT after another signal.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        """Record the first signal."""
        if request.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if request.signal is None:
            request.signal = signal.Signals(number)
            name = request.signal.name
            print(f"{name}: saving after this step; Ctrl-C stops at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {n: h for n in SIGNALS if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
