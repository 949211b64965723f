"""How a command starts, alone or as one of several processes, and ends.

Exit codes: 0 done, 1 the work failed (one line on stderr), 2 wrong usage, 130 interrupted (143: by SIGTERM, 129: by
SIGHUP), 141 done or stopped when the reader of standard output had gone.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType

from ..errors import INTERRUPTED, Interrupted, LoraScratchError, printable
from ..runtime import deferred_imports, garbage
from ..runtime.device import is_out_of_memory, started_number
from ..runtime.distributed import check_one_process, is_main, process_group, processes_started
from ..runtime.ranks import check_same_settings
from .streams import READER_GONE, lasting_streams

FREE = "end other programs, or use a machine with more memory"
ADVICE = {"train": f"lower --batch_size or --max_tokens, {FREE}"}  # flags that the command has


def run_command(
    main: Callable[[], None],
    *,
    in_processes: bool = False,
    needs_reader: bool = False,
    only_classifies: bool = False,
) -> None:
    """Call `main` and exit. An error of the project is one line; any other exception is a defect and keeps its traceback.

    Args:
        in_processes: whether several processes may share the work. Only the main one prints; `main` decides who writes.
        needs_reader: whether the work is for nothing once nobody reads standard output (streams.py).
        only_classifies: whether imports can be put off (runtime/deferred_imports.py).
    """
    garbage.put_off()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without these letters
    with lasting_streams(needs_reader=needs_reader) as output, _raised_signals(), _warnings_in_one_line():
        _run(main, in_processes=in_processes, only_classifies=only_classifies)
    if output.gone:
        sys.exit(READER_GONE)


def _run(main: Callable[[], None], *, in_processes: bool, only_classifies: bool) -> None:
    try:
        if only_classifies and processes_started() == 1:
            deferred_imports.defer()
        with _one_of_several() if in_processes else _alone():
            main()
            sys.stdout.flush()
    except LoraScratchError as error:
        own = "out of memory" in str(error) or not is_out_of_memory(error)  # a step of training has better advice
        _say("error", error if own else _out_of_memory())
        sys.exit(1)
    except Interrupted as stop:
        _say("interrupted", stop)
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(READER_GONE)
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        _say("error", _out_of_memory())
        sys.exit(1)


@contextmanager
def _raised_signals() -> Iterator[None]:
    """Raise SIGTERM and SIGHUP as Interrupted inside: files of half the result go away, and child processes end.

    A signal that the process was started to ignore (nohup) stays ignored. Threads get none.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Interrupted(name, signal_number=number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: h for n in (signal.SIGTERM, signal.SIGHUP) if (h := signal.getsignal(n)) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_line() -> str:
    """Return the command as one would paste it: `python FILE.py`, `lora-scratch COMMAND`, or torchrun with either."""
    processes, of_this_machine = processes_started(), started_number("LOCAL_WORLD_SIZE", default=1)
    if processes == 1:
        started = ["python", sys.argv[0]] if _is_file() else shlex.split(sys.argv[0])
        return shlex.join([*started, *sys.argv[1:]])
    nodes = ["--nnodes", str(processes // of_this_machine)] if processes > of_this_machine else []
    return shlex.join(["torchrun", *nodes, "--nproc_per_node", str(of_this_machine), *_program(), *sys.argv[1:]])


def restart_command() -> list[str]:
    """Return the words that start this command again, without its arguments, in a process of its own."""
    return [sys.executable, *_program()]


def _is_file() -> bool:
    return sys.argv[0].endswith(".py")


def _program() -> list[str]:
    """What Python runs: the file, or the module lora_scratch with the name of the command."""
    if _is_file():
        return [sys.argv[0]]
    words = shlex.split(sys.argv[0])
    return ["-m", "lora_scratch", *words[3 if words[0] == "python" else 1 :]]


@contextmanager
def _alone() -> Iterator[None]:
    check_one_process(Path(sys.argv[0]).name)
    yield


@contextmanager
def _one_of_several() -> Iterator[None]:
    with process_group():
        check_same_settings(_flags(sys.argv[1:]))
        if is_main():
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """The words after every flag; those before any are `arguments`."""
    name, values = "arguments", dict[str, list[str]]()
    for word in arguments:
        if word.startswith("--"):
            name, *first = word.split("=", 1)
            values[name] = first  # the last one counts
        else:
            values.setdefault(name, []).append(word)
    return {name: " ".join(words) for name, words in values.items()}


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Write warnings of the project without the place in its source; others stay as Python writes them."""
    usual = warnings.formatwarning
    package = str(Path(__file__).parents[1])

    def line_of(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        """Return one warning as text."""
        if category is UserWarning and filename.startswith(package):
            return f"warning: {printable(str(message))}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = line_of
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _out_of_memory() -> str:
    return f"out of memory; {ADVICE.get(Path(sys.argv[0].split()[-1]).stem, FREE)}"


def _say(kind: str, reason: object) -> None:
    """Write one line to stderr. Several processes often write the same, so all but the first give their number."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # which need not be a number: that can be the error
    number = "0" if alone else os.environ.get("RANK", "0")
    below = "\n" if getattr(sys.stderr, "within_line", False) else ""  # a progress bar that was left as it was
    print(f"{below}{kind}{'' if number == '0' else f' in process {printable(number)}'}: {reason}", file=sys.stderr)
