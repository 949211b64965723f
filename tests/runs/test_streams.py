"""lora_scratch/runs/streams.py: a reader that goes away ends neither the work nor its exit code."""

import io
import os
import sys

import pytest

from lora_scratch.errors import ConfigError
from lora_scratch.runs import run_command
from lora_scratch.runs.streams import READER_GONE, Stream, StreamError, lasting_streams


def leave_unread(monkeypatch):
    """Give the test a standard output whose reader has gone. (In the test: pytest puts its own in place after fixtures.)"""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))


def ended(main, **how):
    """The exit code of a command."""
    try:
        run_command(main, **how)
    except SystemExit as stop:
        return stop.code
    return 0


def test_work_goes_on_without_a_reader_and_ends_with_141(monkeypatch):
    """`train | head` still writes its run folder, and a script sees that the output was cut."""
    leave_unread(monkeypatch)
    done = []

    def main():
        print("first", flush=True)
        done.append("work")
        print("last", flush=True)

    assert ended(main) == READER_GONE
    assert done == ["work"]


def test_a_requirement_that_is_not_met_is_exit_code_1_without_a_reader_too(monkeypatch):
    """`evaluate --require better | head -3` must not pass because the reader left."""
    leave_unread(monkeypatch)

    def main():
        print("a long report", flush=True)
        raise ConfigError("the verdict is 'worse'", where="--require")

    assert ended(main) == 1


def test_a_command_whose_result_is_its_output_stops_without_a_reader(monkeypatch):
    """Nobody waits for a million labels that nobody reads."""
    leave_unread(monkeypatch)
    written = []

    def main():
        for number in range(3):
            print(number, flush=True)
            written.append(number)

    assert ended(main, needs_reader=True) == READER_GONE
    assert written == []


def test_a_full_disk_behind_standard_output_is_one_line(monkeypatch):
    """/dev/full takes nothing."""
    with open("/dev/full", "w") as full:
        stream = Stream(full, "standard output")
        stream.write("text")
        with pytest.raises(StreamError, match=r"standard output: could not be written \(No space left"):
            stream.flush()


def test_a_closed_standard_output_is_said_only_where_it_is_needed():
    """Python gives None for it."""
    Stream(None, "standard output").write("text")
    with pytest.raises(StreamError, match="standard output: is closed; write to a file: --output FILE"):
        Stream(None, "standard output", needs_reader=True).write("text")


def test_a_stream_passes_on_what_it_does_not_change(tmp_path):
    """Progress bars ask for the terminal's size and encoding."""
    with open(tmp_path / "out", "w", encoding="utf-8") as file:
        stream = Stream(file, "standard output")
        assert (stream.fileno(), stream.encoding, stream.isatty()) == (file.fileno(), "utf-8", False)
        assert stream.write("text") == 4
        stream.flush()
    assert (tmp_path / "out").read_text(encoding="utf-8") == "text"


def test_an_error_does_not_leave_output_that_fails_when_python_exits(monkeypatch):
    """What was printed before an unmet requirement is in the buffer: flushed at the exit it would make the code 120."""
    leave_unread(monkeypatch)
    stream = sys.stdout

    def main():
        print("a long report")
        raise ConfigError("the verdict is 'worse'", where="--require")

    assert ended(main) == 1
    stream.flush()


def test_a_closed_output_matters_only_if_something_is_printed():
    """`predict --output FILE >&-` prints nothing."""
    Stream(None, "standard output", needs_reader=True).flush()


def test_a_stream_knows_whether_it_is_within_a_line():
    """A bar begins with a carriage return, and ends with a newline if nothing goes wrong."""
    stream, told = Stream(io.StringIO(), "standard error"), []
    for text in ("words\n", "\rclassify: 10%", "", "\r      \r", "\rclassify: 20%", "\n"):
        stream.write(text)
        told.append(stream.within_line)
    assert told == [False, True, True, False, True, False]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_no_file_takes_the_number_of_a_stream_that_was_closed(tmp_path):
    """A library that prints would write into it."""
    child = os.fork()
    if not child:
        os.closerange(0, 3)
        with lasting_streams(needs_reader=False), open(tmp_path / "result", "w") as file:
            os._exit(file.fileno())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) > 2
