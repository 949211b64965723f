"""scripts/play.py: one line with the address, then the page, until Ctrl-C."""

import json
import re
import signal
import urllib.request

import pytest
from support.command_line import call
from support.served import serve

from lora_scratch.commands import play


@pytest.fixture
def started(job, tmp_path):
    """The command in a process of its own."""
    served = serve(job.adapter, tmp_path)
    yield served
    served.process.kill()
    served.process.join()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_page_is_served_until_a_signal_ends_it(number, code, started):
    """On loopback, by a free port; a question is answered; the end is clean."""
    line = started.first_line()
    (address,) = re.findall(r"^play: (http://127\.0\.0\.1:\d+/) +Ctrl-C ends it$", line)
    with urllib.request.urlopen(address, timeout=30) as page:  # noqa: S310
        assert b"<title>LoRA playground</title>" in page.read()
    with urllib.request.urlopen(f"{address}adapters", timeout=30) as answered:  # noqa: S310
        assert [one["name"] for one in json.load(answered)] == ["run"]
    assert started.end(number) == code
    assert (started.output, "Traceback" in started.errors) == (f"{line}\n" + ("ended\n" if code == 0 else ""), False)


def test_open_shows_the_page_in_the_browser(job, monkeypatch, capsys):
    """At the address that is printed."""
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("lora_scratch.play.server.serve", lambda playground, listening: None)
    assert call(play, job.adapter, "--open") == 0
    assert opened == re.findall(r"http://\S+", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/a/adapter", "runs/b/adapter"], ["a", "b"]),
        (["x/a/adapter", "y/a/adapter"], ["x/a/adapter", "y/a/adapter"]),
        (["mine"], ["mine"]),
        (["adapter"], ["adapter"]),
    ],
)
def test_names_are_short_where_they_differ(folders, expected):
    assert play.names(folders) == expected


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 1, "error: nowhere"),
        ([], 2, "required: ADAPTER"),
        (["a", "a"], 2, "ADAPTER: one is named twice"),
        (["a", "--port", "65536"], 2, "--port: found 65536; expected 0 to 65535"),
        (["a", "--port", "-1"], 2, "--port: found -1"),
        (["a", ""], 2, "ADAPTER: found an empty value"),
    ],
)
def test_wrong_usage_is_one_line(words, code, message, capsys):
    assert call(play, *words) == code
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(job, monkeypatch, capsys):
    """With the command that installs them."""
    monkeypatch.setattr("lora_scratch.runtime.extras.missing_packages", lambda extra: ["starlette", "uvicorn"])
    assert call(play, job.adapter) == 1
    assert 'play: starlette and uvicorn not installed; pip install "lora-scratch[play]"' in capsys.readouterr().err
