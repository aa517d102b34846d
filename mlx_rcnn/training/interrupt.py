"""Ctrl-C as a wish rather than a blow."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """``asked`` becomes ``True`` at the first signal; the second one raises KeyboardInterrupt."""

    asked = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def interruptions() -> Iterator[Stop]:
    """Within it SIGINT (Ctrl-C) and SIGTERM set a flag, for the step under way to be finished."""
    stop = Stop()
    # outside the main thread Python delivers no signals
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
