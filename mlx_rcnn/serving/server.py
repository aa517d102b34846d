"""A socket, uvicorn on it, and an end in good order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from types import FrameType
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..progress import say

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_BACKLOG = 2048
_HEADER_SECONDS = 15.0  # for the head of a request, or the first byte of a connection
_IDLE_SECONDS = 15  # between requests of a connection


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, at port 0 at any free one; clients wait until :func:`serve` runs."""
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def serve(
    app: ASGIApp, listening: socket.socket, patience: float, stopping: Callable[[], str]
) -> bool:
    """Answer requests until Ctrl-C or SIGTERM, those under way first; whether all went in order."""
    # ``patience`` is in seconds; ``stopping`` gives a line to print when the end is asked for
    server = make_server(app, patience, stopping)
    asyncio.run(server.serve(sockets=[listening]))
    return not server.force_exit  # a second signal cut it short


def make_server(app: ASGIApp, patience: float, stopping: Callable[[], str]) -> uvicorn.Server:
    """What :func:`serve` runs: uvicorn, one way whatever is installed beside it."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken form is answered
    config = uvicorn.Config(
        app,
        http=_Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=ceil(patience),
    )
    return _Server(config, stopping)


class _Server(uvicorn.Server):
    """Says what it does at a signal, and does not pass it on once it has ended."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], str]) -> None:
        super().__init__(config)
        self.stopping = stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server, within this block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks for the end, the second does not wait for it."""
        if self.should_exit:
            self.force_exit = True
            # What is cut short would be told with its traceback.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            return
        self.should_exit = True
        say(f"mlx_rcnn: {self.stopping()}")


class _Protocol(H11Protocol):
    """HTTP, with a time limit for the head of a request, which uvicorn lacks."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head is awaited from now on."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """A head that is not complete is still awaited."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
