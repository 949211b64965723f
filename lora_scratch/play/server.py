"""The web server of the page: four files and one question."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from importlib.resources import files

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import ConfigError, DataError, LoraScratchError
from ..runtime.json_text import parse_json
from ..runtime.json_types import from_json
from .guard import Guard
from .playground import Playground
from .state import State

ADDRESS = "127.0.0.1"
LONGEST = 2**20  # bytes of a request
FILES = {"/": ("page.html", "text/html"), "/play.css": ("play.css", "text/css"), "/play.js": ("play.js", "text/javascript")}


def make_app(playground: Playground, *, port: int) -> Starlette:
    """Return the server as an ASGI application that answers requests to this port."""

    async def adapters(_: Request) -> Response:
        """Say what can be chosen."""
        return JSONResponse(playground.describe())

    async def answer(request: Request) -> Response:
        """Answer one state. The model runs in this thread, so requests wait for each other."""
        try:
            return JSONResponse(playground.answer(await _state(request)))
        except LoraScratchError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except (ClientDisconnect, asyncio.CancelledError):  # the reader has gone, or the server ends
            return Response(status_code=503)

    pages = [Route(path, _file(name, kind)) for path, (name, kind) in FILES.items()]
    calls = [Route("/adapters", adapters), Route("/answer", answer, methods=["POST"])]
    return Starlette(routes=[*pages, *calls], middleware=[Middleware(Guard, port=port)])


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens on loopback; 0 takes a free port.

    Raises:
        ConfigError: the port is taken, or not allowed.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        remedy = "choose another, or leave the flag out for a free one"
        raise ConfigError(f"{ADDRESS}:{port}: {error}", where="--port", remedy=remedy) from error
    return listening


def serve(playground: Playground, listening: socket.socket) -> None:
    """Answer requests until a signal ends the server."""
    app = make_app(playground, port=listening.getsockname()[1])
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = files(__package__).joinpath(name).read_bytes()
    return lambda _: Response(content, media_type=kind)


async def _state(request: Request) -> State:
    if request.headers.get("content-type") != "application/json":
        raise DataError("the request is no JSON", where="play", expected="Content-Type: application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST:
            raise DataError("the request is too long", where="play", expected=f"at most {LONGEST:,} bytes")
    try:
        value = parse_json(body)
    except ValueError as error:
        raise DataError(str(error), where="play") from error
    state: State = from_json(State, value, where="play")
    return state
