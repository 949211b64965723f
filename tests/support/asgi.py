"""Ask an ASGI application, without a server and without a socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Answered:
    """Status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def ask(app, path, *, method="GET", body=b"", parts=1, requests=None, **headers) -> Answered:
    """Send one request; `content_type` in `headers` is Content-Type. The body comes in `parts`, or as `requests` say."""
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": named, "query_string": b"", "http_version": "1.1"}
    size = -(-len(body) // parts) or 1
    pieces = [body[start : start + size] for start in range(0, max(len(body), 1), size)]
    if requests is None:
        requests = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        requests[-1]["more_body"] = False
    sent = []

    async def receive():
        return requests.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))
