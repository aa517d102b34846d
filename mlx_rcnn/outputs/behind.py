"""Results drawn and written in a thread while others are computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Self

Call: TypeAlias = "Callable[[], object]"


class Behind:
    """Calls made one after the other in a thread; at the end of the ``with`` block all are done."""

    # One waits while one is made: a ``put`` more waits until there is room, so that what the calls
    # hold is bounded. After one that fails the rest is left out, and its error is raised by the
    # next ``put`` or the end of the block, unless that ends with an error of its own.

    def __init__(self) -> None:
        self._waiting: queue.Queue[Call | None] = queue.Queue(1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="behind")

    def put(self, call: Call) -> None:
        """Have a call made; raises the error of an earlier one."""
        self._raise()
        self._waiting.put(call)
        self._raise()  # it may have waited for one that failed

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    call()
            except BaseException as error:  # raised again where the calls come from
                self._error = error
