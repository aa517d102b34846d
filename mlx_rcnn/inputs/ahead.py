"""Items made in a thread while others are worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, made in a thread, at most ``depth`` of them waiting.

    The thread ends with the items, with an error in making them, which is raised here, or when the
    iterator is closed.

    Args:
        items: iterated in the thread.
        depth: at least 1.

    Yields:
        Each item.
    """
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    ended = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not ended.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((False, item)):
                    return
            put((True, None))
        except BaseException as error:  # raised again where the items are wanted
            put((True, error))

    thread = threading.Thread(target=work, daemon=True, name="ahead")
    thread.start()
    try:
        while True:
            last, item = waiting.get()
            if last:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        ended.set()
        thread.join()
