"""What stands before every request: whom it may come from, and the headers of every answer.

A page of another site that runs in the user's browser can send requests to this machine. Two checks
keep it out, as there is no password: its own name must not be in ``Host`` (DNS rebinding), and not
in ``Origin`` (requests across sites). There are no cookies, and no CORS header lets it read.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses strangers; ``names``, ``localhost`` and addresses are ours."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        why = self.refusal(Headers(scope=scope), scope["method"])
        if why is None:
            await self.app(scope, receive, send_guarded)
            return
        body = json.dumps({"error": why}).encode()
        start: Message = {"type": "http.response.start", "status": 403}
        start["headers"] = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send_guarded(start)
        await send({"type": "http.response.body", "body": body})

    def refusal(self, headers: Headers, method: str) -> str | None:
        """Why a request is refused; ``None`` if it is not."""
        host = headers.get("host", "")
        if not self.is_ours(host):
            return (
                f"Host {host[:100]!r} is not this server: expected localhost, an address, or a "
                "name given by --allow-host"
            )
        if method in ("GET", "HEAD"):  # which change nothing and cost nothing
            return None
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return f"Origin {origin[:100]!r}: requests of other sites' pages are refused"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "requests of other sites' pages are refused"
        return None

    def is_ours(self, host: str) -> bool:
        """Whether a ``Host`` header names this server."""
        name = _name_of(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True  # an attacker's page has a name, or it would not need this server's


def own_names(host: str, allowed: Iterable[str]) -> list[str]:
    """Names by which a server that listens on ``host`` is reached, and the user's ``allowed``."""
    names = [host, *allowed]
    if not is_loopback(host):
        own = socket.gethostname()  # beyond loopback, the machine's own names count, too
        names += [own, socket.getfqdn(), f"{own.split('.')[0]}.local"]
    return names


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """``Host`` without its port, ``[::1]`` without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")
