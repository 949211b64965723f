"""Answer the page of this server alone: no other site, and no other name of this machine.

A site that a browser has open could send requests to 127.0.0.1; its Origin tells. A site could also
let its own name point to 127.0.0.1 (DNS rebinding); the Host tells.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
POLICY += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuse requests that the page did not send, and add the headers of the content security policy.

    Args:
        port: the only one that the requests may name.
    """

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app, self.hosts = app, {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            """Add the headers to the start of the answer."""
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        fault = self._fault(Headers(scope=scope))
        app = JSONResponse({"error": fault}, status_code=403) if fault else self.app
        await app(scope, receive, send_with_headers)

    def _fault(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return "the request names another host"
        if origin is not None and origin != f"http://{host}":
            return "the request comes from another site"
        return ""
