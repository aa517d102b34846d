"""What ``POST /predict`` is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

from ..messages import nearest
from .limits import RequestError
from .worker import Found

NAMES = ("threshold", "top_k", "format", "name")
JSON, PICTURE = "json", "picture"
Number = TypeVar("Number", int, float)


class Query(NamedTuple):
    """``threshold`` and ``top_k``, ``None`` for the model's own; ``kind`` of answer; ``name``."""

    threshold: float | None
    top_k: int | None
    kind: str
    name: str


class Upload(NamedTuple):
    """An image file: its bytes, and the name its sender gave it, if any."""

    data: bytes
    name: str


class File(NamedTuple):
    """A file to download: its bytes, media type and name."""

    data: bytes
    media_type: str
    name: str


class Wish(NamedTuple):
    """What to write: ``kind``, the image file as it was sent, Pillow's format, the threshold."""

    kind: str
    upload: Upload
    format: str
    threshold: float


class Files(NamedTuple):
    """Who writes what is downloaded."""

    kinds: tuple[str, ...]  # values of ``format`` beside ``json``
    make: Callable[[Found, Wish], File]  # gives the file; runs in the worker's thread
    shown: float  # the threshold where none is given


def read_query(given: Mapping[str, str], formats: tuple[str, ...]) -> Query:
    """The query of ``POST /predict``; a RequestError for a name or a value that cannot be."""
    for name in given:
        if name not in NAMES:
            expected = f"expected some of {', '.join(NAMES)}{nearest(name, NAMES)}"
            raise RequestError(400, f"query {name[:60]!r}: {expected}")
    kind = given.get("format", JSON)
    if kind not in formats:
        expected = f"expected one of {', '.join(formats)}{nearest(kind, formats)}"
        raise RequestError(400, f"format={kind[:60]!r}: {expected}")
    threshold = _number(given, "threshold", float, "a number from 0 to 1", 0.0, 1.0)
    top_k = _number(given, "top_k", int, "a whole number of at least 1", 1, 1 << 31)
    return Query(threshold, top_k, kind, given.get("name", ""))


def _number(
    given: Mapping[str, str],
    name: str,
    kind: Callable[[str], Number],
    rule: str,
    low: float,
    high: float,
) -> Number | None:
    if name not in given:
        return None
    value: Number | None = None
    with suppress(ValueError):
        value = kind(given[name])
    if value is None or not low <= value <= high:
        raise RequestError(400, f"{name}={given[name][:60]!r}: expected {rule}")
    return value
