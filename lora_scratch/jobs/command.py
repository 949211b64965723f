"""How a command ends: 0 done, 1 the work failed (one line on stderr), 2 wrong usage, 130 interrupted (143: by SIGTERM)."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from ..errors import Interrupted, LoraScratchError
from ..runtime.device import is_out_of_memory

INTERRUPTED = 130  # 128 + SIGINT, what a shell expects


def run_command(main: Callable[[], None]) -> None:
    """Call `main` and exit. An error of the project is one line; any other exception is a defect and keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without these letters
    try:
        main()
        sys.stdout.flush()
    except LoraScratchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print("error: out of memory; lower --batch_size or --max_tokens, or choose another --device", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
