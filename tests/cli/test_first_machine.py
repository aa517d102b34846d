"""Machines that share batches, as threads of one process that are connected by the loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mlx_rcnn.cli.errors import CommandError
from mlx_rcnn.cli.sharing.first_machine import READY, First, Result
from mlx_rcnn.cli.sharing.other_machine import Other
from mlx_rcnn.peers import Peer

COMMON = {"images": ["a é.jpg", "b.jpg"], "weights": ["12ab"]}


def connected() -> tuple[Peer, Peer]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return Peer(one), Peer(server.accept()[0])


def predicted(batch: int) -> Result:
    return {"batch": batch, "text": "\udc80 é"}, [bytes([batch])] * (batch % 3)


@contextmanager
def team(size: int, *works: Callable[[Other], Any]) -> Iterator[First]:
    """The first, and other machines that do what is given."""
    pairs = [connected() for _ in range(1, size)]
    first = First({rank: pair[0] for rank, pair in enumerate(pairs, 1)}, size)
    others = [Other(pair[1], rank, size) for rank, pair in enumerate(pairs, 1)]
    threads = [threading.Thread(target=works[i], args=(other,)) for i, other in enumerate(others)]
    for thread in threads:
        thread.start()
    try:
        yield first
    finally:
        first.leave()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def works(other: Other) -> None:
    other.work(COMMON, predicted)


def stopped(said: str) -> Callable[[Other], None]:
    """A machine that is told why it stops."""

    def work(other: Other) -> None:
        with pytest.raises(CommandError, match=said):
            other.work(COMMON, predicted)

    return work


class Kept:
    """What came, and from which machine."""

    def __init__(self) -> None:
        self.batches: dict[int, int] = {}

    def __call__(self, batch: int, machine: int, result: Result) -> None:
        assert batch not in self.batches and result == predicted(batch)
        self.batches[batch] = machine


@pytest.mark.parametrize(("size", "count"), [(1, 3), (2, 0), (2, 1), (2, 9), (4, 2), (4, 23)])
def test_each_batch_is_done_once(size: int, count: int) -> None:
    kept, batches = Kept(), [number * 2 for number in range(count)]
    with team(size, *[works] * (size - 1)) as first:
        first.begin(COMMON)
        first.share(batches, predicted, kept)
    assert sorted(kept.batches) == batches and not first.lost
    if count >= size:  # each has had one before anyone had two
        assert set(kept.batches.values()) == set(range(size))


def test_a_machine_with_other_images_ends_all() -> None:
    def other(machine: Other) -> None:
        with pytest.raises(CommandError, match="machine 0 of 2 failed: ohoh; machine 1 stops"):
            machine.work({**COMMON, "images": ["a é.jpg", "c.jpg"]}, predicted)

    with team(2, other) as first:
        said = "machine 1 of 2 has other images than the first: c.jpg, not b.jpg; expected the same"
        with pytest.raises(CommandError, match=said):
            first.begin(COMMON)
        first.leave("failed: ohoh")


def test_a_machine_that_fails_before_there_is_work_ends_all() -> None:
    with team(3, lambda other: other.leave("failed: no such folder"), stopped("ended")) as first:
        said = "machine 1 of 3 failed: no such folder; machine 0 stops with it"
        with pytest.raises(CommandError, match=said):
            first.begin(COMMON)


@pytest.mark.parametrize("how", ["fails", "is gone"])
def test_what_a_lost_machine_had_is_missing_and_the_rest_is_done(how: str) -> None:
    def lost(other: Other) -> None:
        def predict(batch: int) -> Result:
            raise ValueError(f"not {batch}")

        with pytest.raises(ValueError, match="not 0"):
            other.work(COMMON, predict)
        if how == "fails":
            other.leave("failed: not 0")
        other._peer.close()

    kept = Kept()
    with team(3, lost, works) as first:
        first.begin(COMMON)
        first.share(range(12), predicted, kept)
        assert first.losses().startswith(f"machine 1 of 3 {how[:4]}")
    # It had the first, and one more so that it would not wait.
    assert sorted(kept.batches) == [1, 2, *range(4, 12)]


def test_what_cannot_be_kept_ends_all() -> None:
    def full(batch: int, machine: int, result: Result) -> None:
        if machine == 1:
            raise CommandError("disk full")

    with team(2, stopped("failed: disk full")) as first:
        first.begin(COMMON)
        with pytest.raises(CommandError, match="disk full"):
            first.share(range(50), predicted, full)
        first.leave("failed: disk full")


def test_large_results_arrive() -> None:
    def predict(batch: int) -> Result:
        return {}, [bytes(3_000_000)]

    sizes = []
    with team(2, lambda other: other.work(COMMON, predict)) as first:
        first.begin(COMMON)
        first.share(range(4), predict, lambda _, __, found: sizes.append(len(found[1][0])))
    assert sizes == [3_000_000] * 4


def test_a_machine_may_be_lost_between_ready_and_work() -> None:
    def ready(other: Other) -> None:
        other._peer.send({"kind": READY, "common": COMMON})
        other._peer.close()

    kept = Kept()
    with team(2, ready) as first:
        with contextlib.suppress(CommandError):  # or it was seen to be gone at once
            first.begin(COMMON)
        assert first.fate().startswith("machine 1 of 2 is gone")
        first.share(range(3), predicted, kept)
    assert sorted(kept.batches) == [0, 1, 2]
