"""Connections between machines: who is let in, and that no message is lost."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from mlx_rcnn import peers
from mlx_rcnn.peers import Peer

TOKEN = 77


def accepted(*sent: bytes, size: int = 2) -> tuple[dict[int, Peer], str]:
    """Whom the first machine lets in, of those who send this and stay."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def connect() -> None:
        for data in sent:
            connection = socket.create_connection(address)
            connection.sendall(data)
            connections.append(connection)

    connections: list[socket.socket] = []
    thread = threading.Thread(target=connect)
    thread.start()
    try:
        return peers._accept(listener, TOKEN, size)
    finally:
        thread.join()


def hello(token: object, rank: object) -> bytes:
    return json.dumps({"token": token, "rank": rank}).encode() + b"\n"


@pytest.mark.parametrize(
    "stranger",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[1]\n",
        b"\xff" * 4000,
        hello(TOKEN + 1, 1),
        hello(TOKEN, 0),
        hello(TOKEN, 2),
        hello(TOKEN, "1"),
    ],
)
def test_strangers_are_not_let_in(stranger: bytes) -> None:
    found, problem = accepted(stranger, hello(TOKEN, 1))
    assert list(found) == [1] and problem == ""


def test_what_is_said_with_the_greeting_is_not_lost() -> None:
    found, _ = accepted(hello(TOKEN, 1) + b'{"kind": "failed"}\n{"kind": ')
    assert found[1].read(5) == ([{"kind": "failed"}], False)


def test_who_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE", 0.3)
    found, problem = accepted(hello(TOKEN, 2), size=4)
    assert list(found) == [2] and problem == "machines [1, 3] did not connect"
