"""The server answers its own page and nothing else."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from support.asgi import ask

import lora_scratch.play
from lora_scratch.errors import ConfigError
from lora_scratch.play.server import listen, make_app
from lora_scratch.play.state import State

PORT, FOLDER = 4321, Path(lora_scratch.play.__file__).parent
HOST = {"host": f"127.0.0.1:{PORT}"}
STATE = State("single", "i am so happy today")
ASKED = {"method": "POST", "content_type": "application/json", **HOST}


@pytest.fixture
def app(playground):
    return make_app(playground, port=PORT)


def test_answer_is_the_playgrounds(app, playground):
    """As JSON, to the last bit."""
    answered = ask(app, "/answer", body=json.dumps(asdict(STATE)).encode(), **ASKED)
    assert answered.status == 200
    assert answered.json == json.loads(json.dumps(playground.answer(STATE)))


def test_page_has_the_adapters(app, folders):
    """With what can be switched."""
    adapters = ask(app, "/adapters", **HOST).json
    assert [one["name"] for one in adapters] == list(folders)
    assert [one["task"] for one in adapters] == ["single_label", "multi_label", "regression", "single_label"]
    assert [one["pairs"] for one in adapters] == [False, False, False, True]
    assert [bool(one["thresholds"]) for one in adapters] == [False, True, False, False]


@pytest.mark.parametrize("path", ["/", "/play.css", "/play.js", "/adapters", "/nowhere"])
def test_every_answer_has_the_content_security_policy(path, app):
    """Nothing from elsewhere, no frame around it, nothing kept."""
    headers = ask(app, path, **HOST).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["", "127.0.0.1", f"evil.example:{PORT}", "127.0.0.1:80", f"127.0.0.1:{PORT}.evil.example"])
def test_another_host_is_refused(host, app):
    """DNS rebinding: a site lets its name point to this machine."""
    for path in ("/", "/adapters"):
        assert ask(app, path, host=host).status == 403
    refused = ask(app, "/answer", body=json.dumps(asdict(STATE)).encode(), **{**ASKED, "host": host})
    assert (refused.status, refused.json) == (403, {"error": "the request names another host"})


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:80", f"https://127.0.0.1:{PORT}"])
def test_another_site_is_refused(origin, app):
    """Also a page of another port of this machine."""
    refused = ask(app, "/answer", body=json.dumps(asdict(STATE)).encode(), origin=origin, **ASKED)
    assert (refused.status, refused.json) == (403, {"error": "the request comes from another site"})


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_own_page_is_answered_under_both_names(name, app):
    """With the Origin that a browser sends."""
    headers = {**ASKED, "host": f"{name}:{PORT}", "origin": f"http://{name}:{PORT}"}
    assert ask(app, "/answer", body=json.dumps(asdict(STATE)).encode(), **headers).status == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 2.5}, "strength is 2.5, expected a number from -0.5 to 2.0"),
        ({"strength": -1}, "strength is -1, expected a number from -0.5 to 2.0"),
        ({"rank": 0}, "rank is 0, expected a number from 1 to"),
        ({"rank": True}, "rank is True"),
        ({"row": -1}, "row is -1"),
        ({"off": "q_lin"}, "off is 'q_lin', expected a list"),
        ({"off": ["nowhere"]}, "'nowhere' is no adapted layer"),
        ({"module": "nowhere"}, "no adapted layer is called 'nowhere'"),
        ({"text": ""}, "the text: "),
        ({"text": "a\0b"}, "the text: "),
        ({"adapter": "nowhere"}, "there is no adapter 'nowhere'"),
        ({"more": 1}, "unknown keys 'more'"),
    ],
)
def test_wrong_states_are_answered_with_one_line(changes, message, app):
    """Status 400, and what is wrong."""
    answered = ask(app, "/answer", body=json.dumps({**asdict(STATE), **changes}).encode(), **ASKED)
    assert answered.status == 400
    assert message in answered.json["error"]
    assert "\n" not in answered.json["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"", "play: "), (b"[1", "play: "), (b"[]", "expected an object"), (b"\xff", "play: "), (b'{"a": NaN}', "NaN")],
)
def test_no_json_is_answered_with_one_line(body, message, app):
    answered = ask(app, "/answer", body=body, **ASKED)
    assert answered.status == 400
    assert message in answered.json["error"]


def test_a_form_of_another_site_is_no_question(app):
    """A browser sends text/plain across sites without asking first."""
    answered = ask(app, "/answer", body=json.dumps(asdict(STATE)).encode(), **{**ASKED, "content_type": "text/plain"})
    assert (answered.status, "Content-Type: application/json" in answered.json["error"]) == (400, True)


def test_long_request_is_refused_before_it_is_read(app):
    """Whatever its header says."""
    answered = ask(app, "/answer", body=b" " * 3 * 2**20, parts=30, **ASKED)
    assert (answered.status, "too long" in answered.json["error"]) == (400, True)


def test_socket_listens_on_loopback_alone_and_a_taken_port_is_one_line():
    """A free port unless one is named."""
    with listen() as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(ConfigError, match=f"--port: 127.0.0.1:{port}: .*; choose another"):
            listen(port)


def test_page_is_small_and_loads_nothing_from_elsewhere():
    """At most 200 kB and 400 lines of script; no address but its own."""
    files = {name: (FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "play.css", "play.js")}
    assert sum(len(text.encode()) for text in files.values()) < 200_000
    assert len(files["play.js"].splitlines()) <= 400
    assert all(re.findall(r"https?:|//[a-z]|@import|url\(|eval\(|innerHTML", text) == [] for text in files.values())
    assert "style=" not in files["page.html"]
    assert "<script>" not in files["page.html"]


def test_a_reader_that_goes_away_while_it_sends_is_no_fault_of_the_server(app):
    """Nothing is raised, so nothing is printed."""
    disconnect = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    assert ask(app, "/answer", requests=disconnect, **ASKED).status == 503
