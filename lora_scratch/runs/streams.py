"""Standard output and standard error that outlive their reader.

`train | head` ends the reader, not the work: the training goes on, nothing more is written, and the exit code
is 141, as the shell gives it for SIGPIPE. A command whose result is its output stops instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

from ..errors import LoraScratchError

READER_GONE = 141  # 128 + SIGPIPE


class StreamError(LoraScratchError):
    """Standard output can't be written: a full disk, or a stream that is closed."""


class Stream:
    """A text stream that goes quiet when its reader has gone.

    Args:
        stream: None if it was closed before the start: what is written goes nowhere.
        needs_reader: raise BrokenPipeError instead of going quiet.
    """

    def __init__(self, stream: Any, name: str, *, needs_reader: bool = False) -> None:
        self.closed_before = stream is None
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115 - until the program ends
        self.name, self.needs_reader, self.gone = name, needs_reader, False
        self.within_line = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, if there is somebody to read."""
        if self.closed_before and self.needs_reader:
            raise StreamError("is closed", where=self.name, remedy="write to a file: --output FILE")
        self._call(lambda: self.stream.write(text))
        self.within_line = not text.endswith(("\n", "\r")) if text else self.within_line
        return len(text)

    def flush(self) -> None:
        """Flush, if there is somebody to read."""
        self._call(lambda: self.stream.flush())

    def finish(self) -> None:
        """Flush after an error, which is the one that counts."""
        with suppress(StreamError, BrokenPipeError):
            self.flush()

    def _call(self, action: Callable[[], object]) -> None:
        if self.gone:
            return
        try:
            action()
        except BrokenPipeError:
            self._leave()
            if self.needs_reader:
                raise
        except OSError as error:
            self._leave()
            raise StreamError(f"could not be written ({error.strerror})", where=self.name) from error

    def _leave(self) -> None:
        """Send what is still buffered nowhere: Python flushes the stream again when it exits."""
        self.gone = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


@contextmanager
def lasting_streams(*, needs_reader: bool) -> Iterator[Stream]:
    """Replace stdout and stderr inside. Yield stdout, whose `gone` says whether its reader has left."""
    _fill_descriptors()
    output, errors = Stream(sys.stdout, "standard output", needs_reader=needs_reader), Stream(sys.stderr, "standard error")
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield output
        finally:  # else Python flushes them when it exits, and takes 120 for the exit code if that fails
            output.finish()
            errors.finish()


def _fill_descriptors() -> None:
    """Open /dev/null in place of closed streams: else the next file would get what libraries print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
