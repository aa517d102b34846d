"""The first of the machines that share images: it hands out batches and keeps what comes back.

One machine is a first one without others. Every machine takes the batches that one machine would
make, so that results do not depend on who predicts. Before the work begins all end when one fails;
from then on the others go on, and the batches that a lost machine had are missing: given to another
they might end that one too.
"""

from __future__ import annotations

import base64
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from ...peers import GONE, TURN, Message, Peer
from ..errors import CommandError

Common = dict[str, list[str]]
"""What must be equal on all machines, by what it is."""
Found: TypeAlias = dict[str, Any]
"""Of a batch, as JSON: ``images``, ``problems``, ``seconds``; when kept, ``machine``, ``turn``."""
Result = tuple[Found, list[bytes]]
"""Of a batch: what JSON holds, and files."""
Rest: TypeAlias = Callable[[], Result]
"""What is left to do of a batch without the network."""
READY, DO, FAILED, BYE = "ready", "do", "failed", "bye"
"""Kinds of messages; any other is a batch that is done."""
GRACE = 2.0
"""Seconds until it is known why a launcher ends a machine."""
_AHEAD = 2  # batches that another machine has at once, so that it never waits for one


class First:
    """The first machine, and what it knows of the others, its peers by rank."""

    first = True

    def __init__(self, peers: dict[int, Peer], size: int) -> None:
        self.size = size
        self.lost: dict[int, str] = {}  # why, by rank
        self._peers, self._todo = peers, deque[int]()
        self._held: dict[int, set[int]] = {rank: set() for rank in peers}
        self._common: dict[int, Common] = {}
        self._keep: Callable[[int, int, Result | Rest], None] = _no_work
        self._error: BaseException | None = None
        self._news, self._leaving = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True, name="machines")
        if peers:
            self._thread.start()

    def begin(self, common: Common) -> None:
        """Wait until all machines are ready; CommandError if one has failed, or differs."""
        with self._news:
            ready, ranks = self._common.keys(), self._peers.keys()
            self._news.wait_for(lambda: self._error or self.lost or ready == ranks)
            self._check(common)

    def share(
        self,
        batches: Sequence[int],
        predict: Callable[[int], Result | Rest],
        keep: Callable[[int, int, Result | Rest], None],
    ) -> None:
        """Have all batches predicted, here and there; lost machines are in ``lost`` then."""
        with self._news:
            # ``keep`` is called for one batch at a time
            self._keep, self._todo = keep, deque(batches)
            own = deque[int]()
            for turn in range(_AHEAD):  # one for each before anyone has two
                for rank in self._peers:
                    self._hand(rank, turn + 1)
                if turn == 0 and self._todo:
                    own.append(self._todo.popleft())
        while (number := self._next(own)) is not None:
            result = predict(number)
            with self._news:
                keep(number, 0, result)
        with self._news:
            self._news.wait_for(lambda: self._error or not any(self._held.values()))
            self._raise()

    def fate(self) -> str:
        """Which machine was lost and why, in words; empty if none was, or none says so soon."""
        if self._peers:
            with self._news:
                self._news.wait_for(lambda: self.lost or self._error, GRACE)
        return self.losses() and f"{self.losses()}; machine 0 stops with it"

    def losses(self) -> str:
        """The machines that were lost, and why; empty if none was."""
        return "; ".join(
            f"machine {rank} of {self.size} {why}" for rank, why in sorted(self.lost.items())
        )

    def leave(self, why: str = "ended") -> None:
        """Say why to those who still wait, and close the connections."""
        self._leaving.set()
        if self._peers:
            self._thread.join()
        for peer in self._peers.values():
            if not peer.left:
                peer.send({"kind": FAILED, "why": why})
            peer.close()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _check(self, common: Common) -> None:
        """Refuse machines that are lost already, or have other images or weights."""
        self._raise()
        if self.lost:
            raise CommandError(f"{self.losses()}; machine 0 stops with it", 1)
        for rank, theirs in sorted(self._common.items()):
            for name, own in common.items():
                if theirs[name] != own:
                    odd = _difference(own, theirs[name])
                    raise CommandError(
                        f"machine {rank} of {self.size} has other {name} than the first: {odd}; "
                        "expected the same files at the same paths on every machine"
                    )

    def _next(self, own: deque[int]) -> int | None:
        """The next batch for this machine."""
        with self._news:
            self._raise()
            todo = own or self._todo
            return todo.popleft() if todo else None

    def _hand(self, rank: int, most: int = _AHEAD) -> None:
        """Give a machine work, or say goodbye to it."""
        held, peer = self._held[rank], self._peers[rank]
        if peer.left:
            return
        given = []
        while len(held) < most and self._todo:
            given.append(self._todo.popleft())
            held.add(given[-1])
        if given:
            peer.send({"kind": DO, "batches": given})
        if not held:
            peer.left = True
            peer.send({"kind": BYE})

    def _listen(self) -> None:
        """Take what the others send, until this machine leaves."""
        try:
            while not self._leaving.is_set():
                present = {peer.socket: rank for rank, peer in self._peers.items() if not peer.left}
                if not present:
                    return
                for connection in select.select(list(present), [], [], TURN)[0]:
                    self._read(present[connection])
        except BaseException as error:  # of keeping a result, for the main thread to raise
            with self._news:
                self._error = error
                self._news.notify_all()

    def _read(self, rank: int) -> None:
        messages, closed = self._peers[rank].read(0)
        with self._news:
            for message in messages:
                self._hear(rank, message)
            if closed:
                self._lose(rank, GONE)
            self._news.notify_all()

    def _hear(self, rank: int, message: Message) -> None:
        if message["kind"] == READY:
            self._common[rank] = message["common"]
        elif message["kind"] == FAILED:
            self._lose(rank, message["why"])
        else:
            files = [base64.b64decode(text) for text in message["files"]]
            self._keep(message["batch"], rank, (message["found"], files))
            self._held[rank].discard(message["batch"])
            self._hand(rank)

    def _lose(self, rank: int, why: str) -> None:
        if not self._peers[rank].left:
            self._peers[rank].left = True
            self.lost[rank] = why
            self._held[rank].clear()


def _no_work(*_: object) -> NoReturn:
    raise AssertionError("a result came before there was work")


def _difference(own: list[str], theirs: list[str]) -> str:
    """The first place where two lists differ."""
    at = next((i for i, (a, b) in enumerate(zip(own, theirs, strict=False)) if a != b), None)
    if at is None:
        return f"{len(theirs)}, not {len(own)}"
    return f"{theirs[at]}, not {own[at]}"
