"""What every request passes first: host, origin and API key are checked, and it is counted when it is answered."""

from __future__ import annotations

import hmac
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from showtell.web.problems import Problem
from showtell.web.service import Service

_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")  # without an API key, beside the page's own files
_LEFT = 499  # nobody receives it; as other servers count it


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Guard:
    """Checks host, origin and key before anything is read, adds the headers that every answer has, and counts."""

    def __init__(self, app: ASGIApp, *, service: Service, key: str | None, hosts: frozenset[str] | None) -> None:
        self._app, self._metrics, self._hosts = app, service.metrics, hosts
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        status = 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            refusal = self._refuse(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, send_guarded)
            else:
                await self._app(scope, receive, send_guarded)
        except ClientLeft:
            status = _LEFT
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(scope["method"], route, status, time.monotonic() - begun)

    def _refuse(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return Problem(
                "unknown-host", f"{host[:80]!r} is not a name of this server; use {', '.join(sorted(self._hosts))}"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Problem("foreign-origin", f"a page of {origin[:80]!r} may not use this service; open its own page")
        path = scope["path"]
        if self._expected is None or path in _OPEN or path.startswith(("/static/", "/reports/")):
            return None
        if not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self._expected):
            return Problem(
                "key-needed",
                "the header 'Authorization: Bearer KEY' is missing or has another key than the server's",
                headers={"WWW-Authenticate": 'Bearer realm="showtell"'},
            )
        return None


def loopback_names(host: str) -> frozenset[str] | None:
    """The names by which a server at this address may be called: None, any, unless only this machine reaches it."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return frozenset({"localhost", "127.0.0.1", "::1", host}) if local else None


def _host_name(host: str) -> str:
    """Of a Host header, without the port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
