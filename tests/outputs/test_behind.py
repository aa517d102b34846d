"""Calls made in a thread: in order, few at a time, all of them or up to the first that fails."""

from __future__ import annotations

import threading

import pytest

from mlx_rcnn.outputs.behind import Behind


def test_all_are_made_in_order_in_one_thread() -> None:
    made: list[int] = []
    names = set[str]()
    with Behind() as behind:
        for i in range(50):
            behind.put(lambda i=i: (made.append(i), names.add(threading.current_thread().name)))
    assert made == list(range(50)) and names == {"behind"}


def test_one_waits_while_one_is_made() -> None:
    go, third = threading.Event(), threading.Event()

    def caller(behind: Behind) -> None:
        behind.put(go.wait)
        behind.put(lambda: None)
        behind.put(lambda: None)
        third.set()

    with Behind() as behind:
        thread = threading.Thread(target=caller, args=(behind,))
        thread.start()
        assert not third.wait(0.1)
        go.set()
        assert third.wait(10)
        thread.join()


def test_what_fails_is_raised_and_ends_the_rest() -> None:
    made = []

    def fails() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind() as behind:
        behind.put(fails)
        for i in range(10):
            behind.put(lambda i=i: made.append(i))
    assert not made
    with pytest.raises(OSError, match="disk full"), Behind() as behind:
        behind.put(fails)


def test_an_error_of_the_block_waits_for_what_was_put_and_comes_first() -> None:
    made = []
    with pytest.raises(KeyboardInterrupt), Behind() as behind:
        behind.put(lambda: made.append(1))
        behind.put(lambda: made.append(2))
        raise KeyboardInterrupt
    assert made == [1, 2]
    with pytest.raises(KeyboardInterrupt), Behind() as behind:
        behind.put(lambda: made.index(9))
        raise KeyboardInterrupt
