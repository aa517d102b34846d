"""Connections between machines, beside MLX's collectives, which wait for ever for one that is gone.

All machines connect to the first. The one collective is at the beginning: that they agree on its
address, and on a number that no stranger knows.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

PATIENCE = 15.0  # seconds to connect
TURN = 0.5  # seconds a read or a look around takes at most
GONE = "is gone: its process was killed, or the connection is lost"
_ADDRESS = 4  # numbers of an IPv4 address
_GREETING = 256  # bytes of a first message at most
# Of the kernel: a machine that is off is found out in 25 s, whatever Python does meanwhile; while
# something is on its way to it, on Linux alone.
_KEEPALIVE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPALIVE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 25_000,
}


Message: TypeAlias = dict[str, Any]
"""An object of JSON: what its values are, sender and reader agree on."""


class Peer:
    """An open connection that carries lines of JSON."""

    def __init__(self, connection: socket.socket):
        self.socket, self.left, self._rest = connection, False, bytearray()
        connection.settimeout(None)  # what is sent may be large
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # macOS and Linux differ
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Send a message; who does not take it is found out by reading."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self, seconds: float = TURN) -> tuple[list[Message], bool]:
        """What has come in so many seconds, and whether the connection is closed."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return [], False
        try:
            data = self.socket.recv(1 << 18)
        except OSError:
            data = b""
        self._rest += data
        if b"\n" not in data:
            return [], not data
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [json.loads(line) for line in lines], False

    def greeting(self, seconds: float) -> Message:
        """The first message, and not a byte of the next; empty if it is none of ours."""
        line, until = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            if len(line) == _GREETING or time.monotonic() > until:
                return {}
            if select.select([self.socket], [], [], TURN)[0]:
                try:
                    byte = self.socket.recv(1)
                except OSError:
                    byte = b""
                if not byte:
                    return {}
                line += byte
        try:
            message = json.loads(line)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self.socket.close()


def meet(group: mx.distributed.Group) -> tuple[dict[int, Peer], str]:
    """Connect the machines, all others with the first: peers by rank, and what went wrong."""
    rank = group.rank()
    listener = _listen() if rank == 0 else None
    address, token = _agree(group, listener)
    if listener is not None:
        return _accept(listener, token, group.size())
    try:
        peer = Peer(_connect(address))
    except OSError as error:
        return {}, f"machine {rank} cannot reach the first one at {address[0]}: {error}"
    peer.send({"token": token, "rank": rank})
    return {0: peer}, ""


def _accept(listener: socket.socket, token: int, size: int) -> tuple[dict[int, Peer], str]:
    """Wait for the other machines, who come at once after they agreed on the address."""
    peers: dict[int, Peer] = {}
    until = time.monotonic() + PATIENCE
    with listener:
        while len(peers) < size - 1:
            listener.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                lacking = [r for r in range(1, size) if r not in peers]
                return peers, f"machines {lacking} did not connect"
            peer = Peer(connection)
            hello = peer.greeting(PATIENCE)
            if hello.get("token") == token and hello.get("rank") in range(1, size):
                peers[hello["rank"]] = peer
            else:  # a stranger
                connection.close()
    return peers, ""


def _listen() -> socket.socket:
    """A socket that the other machines can reach, on the address the launcher gave this one."""
    for address in _launched():
        with suppress(OSError):
            return socket.create_server((address, 0))
    return socket.create_server(("", 0))


def _launched() -> list[str]:
    """The addresses of the first machine in ``mlx.launch``'s list of hosts, if there is one."""
    file = os.environ.get("MLX_HOSTFILE")
    if not file:
        return []
    hosts = json.loads(Path(file).read_text(encoding="utf-8"))
    return [name.rsplit(":", 1)[0] for name in hosts[0]]


def _agree(
    group: mx.distributed.Group, listener: socket.socket | None
) -> tuple[tuple[str, int], int]:
    """The first machine's address and a number only these machines know, the same everywhere."""
    numbers = [0] * (_ADDRESS + 2)
    if listener is not None:
        host, port = listener.getsockname()[:2]
        if host == "0.0.0.0":
            host = socket.gethostbyname(socket.gethostname())
        numbers = [*socket.inet_aton(host), port, secrets.randbelow(2**31 - 1)]
    shared = mx.distributed.all_sum(mx.array(numbers, dtype=mx.int32), group=group)
    *address, port, token = np.array(shared).tolist()
    return (socket.inet_ntoa(bytes(address)), port), token


def _connect(address: tuple[str, int]) -> socket.socket:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(address, timeout=TURN)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
