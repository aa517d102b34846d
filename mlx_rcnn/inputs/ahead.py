"""Items made in a thread while others are worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Waiting: TypeAlias = "queue.Queue[tuple[bool, Any]]"
"""Items with ``False``; with ``True`` the error that ends them, or ``None``."""


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, made in a thread, at most ``depth`` of them waiting."""
    waiting: Waiting = queue.Queue(depth)
    ended = threading.Event()
    arguments = (items, waiting, ended)
    thread = threading.Thread(target=_make, args=arguments, daemon=True, name="ahead")
    thread.start()
    try:
        while True:
            last, item = waiting.get()
            if last and item is None:
                return
            if last:
                raise item
            yield item
    # The thread ends with the items, with an error in making them, which is raised here, or when
    # the iterator is closed.
    finally:
        ended.set()
        thread.join()


def _make(items: Iterable[object], waiting: Waiting, ended: threading.Event) -> None:
    """Put each item with ``False``; at the end ``True``, with the error if there was one."""
    try:
        for item in items:
            if not _put(waiting, (False, item), ended):
                return
        _put(waiting, (True, None), ended)
    except BaseException as error:  # raised again where the items are wanted
        _put(waiting, (True, error), ended)


def _put(waiting: Waiting, entry: tuple[bool, object], ended: threading.Event) -> bool:
    """Whether there was room before the iterator was closed."""
    while not ended.is_set():
        try:
            waiting.put(entry, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
