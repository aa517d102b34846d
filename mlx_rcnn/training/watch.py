"""Machines that train together end together.

A collective operation waits for every machine, for ever if one has failed. So the machines keep a
connection beside the collectives, all of them to the first: whoever fails says why, and one that
closes without a goodbye is a process that was killed, or a machine that is gone. The others then
print one line and end, wherever they wait; a checkpoint is whole at every moment, and the run can
be resumed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..messages import one_line

PATIENCE, GRACE = 15.0, 4.0  # seconds: to connect; to fail by oneself, and say of what
_TURN = 0.5  # seconds a read or a look around takes at most
_FAILED, _BYE = "failed", "bye"
_UNWATCHED = "if one fails, it and the others may wait for ever"
_ADDRESS = 4  # numbers of an IPv4 address
# Of the kernel: a machine that is off is found out in 25 s, whatever Python does meanwhile.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_LOST = re.compile(r"\[(ring|jaccl|mpi|nccl)\]")  # how MLX's backends say that a peer is gone
_open = threading.Lock()


@contextmanager
def watched(group: mx.distributed.Group) -> Iterator[None]:
    """End this process when another machine fails inside the block; tell the others if this does.

    Blocks inside another, and groups of one machine, do nothing. A machine that cannot reach the
    first one, as in a ring of cables, goes on unwatched, and a warning says so.

    Args:
        group: of the machines; all of them enter the block.

    Yields:
        Nothing.

    Raises:
        ConnectionError: another machine has failed, and a collective noticed.
    """
    if group.size() == 1 or not _open.acquire(blocking=False):
        yield
        return
    try:
        watch = _Watch(group)
        try:
            yield
        except BaseException as error:
            if (fate := watch.fail(error)) is not None:
                raise ConnectionError(fate) from error
            raise
        watch.leave({"kind": _BYE})
    finally:
        _open.release()


class _Watch:
    """The connections of one machine and the thread that listens to them."""

    def __init__(self, group: mx.distributed.Group):
        self.rank, self.size = group.rank(), group.size()
        self.peers: dict[int, _Peer] = {}
        self.leaving, self.heard = threading.Event(), threading.Event()
        self.fate = ""
        listener = _listen() if self.rank == 0 else None
        address, token = _agree(group, listener)
        if listener is None:
            try:
                peer = _Peer(_connect(address))
            except OSError as error:
                where = f"machine {self.rank} cannot reach the first one at {address[0]}"
                warnings.warn(f"{where}: {error}; {_UNWATCHED}", stacklevel=4)
            else:
                peer.send({"token": token, "rank": self.rank})
                self.peers[0] = peer
        else:
            self._accept(listener, token)
        self.thread = threading.Thread(target=self._listen, daemon=True, name="watch")
        self.thread.start()

    def _accept(self, listener: socket.socket, token: int) -> None:
        """Wait for the other machines, who come at once after they agreed on the address."""
        until = time.monotonic() + PATIENCE
        with listener:
            while len(self.peers) < self.size - 1:
                listener.settimeout(max(until - time.monotonic(), 0.01))
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    lacking = [r for r in range(1, self.size) if r not in self.peers]
                    warnings.warn(f"machines {lacking} did not connect; {_UNWATCHED}", stacklevel=5)
                    return
                peer = _Peer(connection)
                hello = next(iter(peer.wait(PATIENCE)), {})
                if hello.get("token") == token and 0 < hello.get("rank", 0) < self.size:
                    self.peers[hello["rank"]] = peer
                else:  # a stranger
                    connection.close()

    def _listen(self) -> None:
        """Read what the others say, until this machine leaves."""
        while not self.leaving.is_set():
            present = {peer.socket: rank for rank, peer in self.peers.items() if not peer.left}
            ready, _, _ = select.select(list(present), [], [], _TURN)
            for connection in ready:
                self._read(present[connection])

    def _read(self, rank: int) -> None:
        peer = self.peers[rank]
        messages, closed = peer.read()
        for message in messages:
            if message["kind"] == _FAILED:
                self._end(message["rank"], message["why"])
            peer.left |= message["kind"] == _BYE
        if closed and not peer.left:
            self._end(rank, "is gone: its process was killed, or the connection is lost")

    def _tell(self, message: dict[str, Any]) -> None:
        for peer in self.peers.values():
            if not peer.left:
                peer.send(message)

    def _end(self, rank: int, why: str) -> None:
        """Pass it on and end; the main thread waits in a collective that will never return.

        Unless it fails too, as all machines do of a loss that is not finite, and says so itself.
        """
        self.fate = f"machine {rank} of {self.size} {why}; machine {self.rank} stops with it"
        self.heard.set()
        self._tell({"kind": _FAILED, "rank": rank, "why": why})
        if self.leaving.wait(GRACE):
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        with suppress(OSError):
            os.write(2, f"\nmlx_rcnn: error: {self.fate}\n".encode())
        os._exit(1)

    def fail(self, error: BaseException) -> str | None:
        """Tell the others why this machine fails; if it does because of another, which and why."""
        lost = isinstance(error, RuntimeError) and _LOST.match(str(error)) is not None
        if lost and self.heard.wait(GRACE):
            self.leave({"kind": _BYE})
            return self.fate
        self.leave({"kind": _FAILED, "rank": self.rank, "why": f"failed: {one_line(error)}"})
        return None

    def leave(self, message: dict[str, Any]) -> None:
        """Say a last word and go."""
        self.leaving.set()
        self.thread.join()
        self._tell(message)
        for peer in self.peers.values():
            with suppress(OSError):
                peer.socket.close()


class _Peer:
    """A connection that carries lines of JSON."""

    def __init__(self, connection: socket.socket):
        self.socket, self.left, self._rest = connection, False, b""
        connection.settimeout(_TURN)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # macOS and Linux differ
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; who does not take it is found out by reading."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """What has come, and whether the connection is closed."""
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return [], False
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """The first messages, or none in so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            messages, closed = self.read()
            if messages or closed:
                return messages
        return []


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
            return socket.create_connection(address, timeout=_TURN)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
