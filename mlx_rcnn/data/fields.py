"""Single values of annotation files: which types a field may have, and what they mean."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from .sample import Defect

Fields: TypeAlias = Mapping[str, Any]
"""An entry of a file by name; a value is of any type until a function here has read it."""
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")


def whole(value: object) -> int | None:
    """A whole number, also as text or with a fraction of zero; ``None`` for the rest, true too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().split(".")[0])
    return None


def number(value: object) -> float | None:
    """A finite number, also one written as text; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def mark(value: object) -> bool | None:
    """A yes or no such as ``iscrowd``: 0, 1, true, false, also as text, null a no; or ``None``."""
    text = str(value).strip().lower()
    if value is None or (isinstance(value, bool | int | float | str) and text in _NO):
        return False
    if isinstance(value, int | float) and math.isfinite(value):
        return bool(value)  # other numbers are a yes, as to pycocotools
    return True if isinstance(value, str) and text in _YES else None


def shown(value: object) -> str:
    """A value for a message: its JSON-like text, cut to 60 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Notes:
    """What a whole file does in its own way: said once, with how often and where first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, what: str, rule: str, where: str) -> None:
        """Count one: what is the case, without a number of its own, and what is done."""
        count, first = self._found.get((what, rule), (0, where))
        self._found[what, rule] = count + 1, first

    def defects(self) -> list[Defect]:
        """One for each kind."""
        return [
            Defect(str(self.path), f"{what} ({count} times, first in {first})", rule)
            for (what, rule), (count, first) in self._found.items()
        ]
