"""Machines that train together end together.

A collective operation waits for every machine, for ever if one has failed. So the machines keep a
connection beside the collectives, all of them to the first: whoever fails says why, and one that
closes without a goodbye is a process that was killed, or a machine that is gone. The others then
print one line and end, wherever they wait; a checkpoint is whole at every moment, and the run can
be resumed.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mlx.core as mx

from ..messages import one_line
from ..peers import GONE, TURN, meet

GRACE = 4.0  # seconds to fail by oneself, and say of what
_FAILED, _BYE = "failed", "bye"
_UNWATCHED = "if one fails, it and the others may wait for ever"
_LOST = re.compile(r"\[(ring|jaccl|mpi|nccl)\]")  # how MLX's backends say that a peer is gone
_open = threading.Lock()


@contextmanager
def watched(group: mx.distributed.Group) -> Iterator[None]:
    """End this process when another machine fails inside the block; tell the others of ours."""
    # Blocks inside another, and groups of one machine, do nothing. A machine that cannot reach the
    # first one, as in a ring of cables, goes on unwatched, and a warning says so.
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
        self.leaving, self.heard = threading.Event(), threading.Event()
        self.fate = ""
        self.peers, problem = meet(group)
        if problem:
            warnings.warn(f"{problem}; {_UNWATCHED}", stacklevel=4)
        self.thread = threading.Thread(target=self._listen, daemon=True, name="watch")
        self.thread.start()

    def _listen(self) -> None:
        """Read what the others say, until this machine leaves."""
        while not self.leaving.is_set():
            present = {peer.socket: rank for rank, peer in self.peers.items() if not peer.left}
            ready, _, _ = select.select(list(present), [], [], TURN)
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
            self._end(rank, GONE)

    def _tell(self, message: dict[str, str | int]) -> None:
        for peer in self.peers.values():
            if not peer.left:
                peer.send(message)

    def _end(self, rank: int, why: str) -> None:
        """Pass it on and end; the main thread waits in a collective that will never return."""
        # Unless it fails too, as all machines do of a loss that is not finite, and says so itself.
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

    def leave(self, message: dict[str, str | int]) -> None:
        """Say a last word and go."""
        self.leaving.set()
        self.thread.join()
        self._tell(message)
        for peer in self.peers.values():
            peer.close()
