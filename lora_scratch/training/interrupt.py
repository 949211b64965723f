"""SIGINT (Ctrl-C) and SIGTERM ask a run to stop: it does so between two steps, after saving. A second Ctrl-C is at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """The first signal that came, if one has."""

    signal: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Inside, a signal is noted instead of ending the process; afterwards signals do what they did before.

    A signal that the process was started to ignore stays ignored. Only the main thread of a process can listen.

    Raises:
        KeyboardInterrupt: SIGINT when a signal has been noted already.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        """The first signal is a request; another Ctrl-C ends at once."""
        if request.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if request.signal is None:
            request.signal = signal.Signals(number)
            print(f"{request.signal.name}: saving after this step; Ctrl-C stops at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, note)
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
