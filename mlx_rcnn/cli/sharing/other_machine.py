"""Any but the first of the machines that share images: it predicts what the first one asks for."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from ...peers import GONE, TURN, Message, Peer
from ..errors import CommandError
from .first_machine import BYE, FAILED, GRACE, READY, Common, Result


class Other:
    """Any other machine."""

    first = False

    def __init__(self, peer: Peer, rank: int, size: int) -> None:
        self.size, self._rank, self._peer = size, rank, peer
        self._end = ""

    def work(self, common: Common, predict: Callable[[int], Result]) -> None:
        """Predict what the first machine asks for, until it says goodbye."""
        self._peer.send({"kind": READY, "common": common})
        todo = deque[int]()
        while True:
            for message in self._heard(wait=not todo):
                if message["kind"] == BYE:
                    return
                todo += message["batches"]
            if todo:
                found, files = predict(todo[0])
                done: Message = {"kind": "done", "batch": todo.popleft(), "found": found}
                done["files"] = [base64.b64encode(data).decode() for data in files]
                self._peer.send(done)

    def fate(self) -> str:
        """Why the first machine ended, in words; empty if it did not, or does not say so soon."""
        if not self._end:
            try:
                self._heard(wait=True, seconds=GRACE)
            except CommandError as error:
                return str(error)
        return self._end

    def leave(self, why: str = "") -> None:
        """Say why this machine fails, if it does, and close the connection."""
        if why and not self._end:
            self._peer.send({"kind": FAILED, "why": why})

    def _heard(self, wait: bool, seconds: float = TURN) -> list[Message]:
        messages, closed = self._peer.read(seconds if wait else 0)
        for message in messages:
            if message["kind"] == FAILED:
                self._stop(message["why"])
        if closed:
            self._stop(GONE)
        return messages

    def _stop(self, why: str) -> NoReturn:
        self._end = f"machine 0 of {self.size} {why}; machine {self._rank} stops with it"
        raise CommandError(self._end, 1)
