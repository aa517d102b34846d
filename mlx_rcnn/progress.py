"""What is told while work goes on: bars and lines on standard error, which can be left out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from tqdm import tqdm

Thing = TypeVar("Thing")
Bar: TypeAlias = "tqdm[NoReturn]"
"""A bar that is moved on by ``update``."""
_silences: list[None] = []  # blocks that are open, in any thread: a model may load in another


@contextmanager
def silent() -> Iterator[None]:
    """Show no bars and no lines of progress in this process inside the block."""
    _silences.append(None)
    try:
        yield
    finally:
        _silences.pop()


@overload
def bar(things: Iterable[Thing], **options: Any) -> tqdm[Thing]: ...


@overload
def bar(**options: Any) -> Bar: ...


def bar(things: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """``tqdm`` on standard error, which shows nothing inside :func:`silent`."""
    from tqdm import tqdm  # here: --help answers without it

    if _silences or sys.stderr is None:
        options["disable"] = True
    return tqdm(things, **options)


def say(text: str) -> None:
    """A line of progress on standard error, above the bars; none inside :func:`silent`."""
    if not _silences:
        write(text)


def write(text: str) -> None:
    """A line on standard error, above the bars if there are any."""
    if sys.stderr is None:  # closed
        return
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)
