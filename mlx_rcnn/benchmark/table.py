"""What was measured, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cases import Case
from .measure import OURS, THEIRS, Measured

if TYPE_CHECKING:
    from ..structures import Json

Row = tuple[Case, dict[str, Measured]]


def heading(libraries: Sequence[str]) -> str:
    """The first two lines of the Markdown table."""
    columns = ["what", "median", "best", "peak", "waits"]
    if THEIRS in libraries:
        columns += ["torchvision", "ratio", "its peak"]
    columns.append("published")
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def row(case: Case, found: dict[str, Measured]) -> str:
    """A line of the Markdown table; where a library failed, its reason stands for the time."""
    ours, theirs = found[OURS], found.get(THEIRS)
    waits = "-" if ours.waits is None else str(ours.waits)
    cells = [case.title, _time(ours), _time(ours, best=True), _bytes(ours), waits]
    if theirs is not None:
        each = zip(ours.seconds, theirs.seconds, strict=False)
        ratios = sorted(a / b for a, b in each)
        ratio = f"{ratios[len(ratios) // 2]:.2f}" if ratios else "-"
        cells += [_time(theirs), ratio, _bytes(theirs)]
    return f"| {' | '.join([*cells, case.published])} |"


def content(machine: dict[str, str], rows: Sequence[Row]) -> dict[str, Json]:
    """The same for a program: the machine, and each case with what each library took."""
    cases: list[Json] = [
        {
            "title": case.title,
            "kind": case.kind,
            "options": dict(case.options),
            "published": case.published,
            "libraries": {
                name: {
                    "seconds": m.seconds,
                    "peak_bytes": m.peak,
                    "waits": m.waits,
                    "failed": m.failed,
                }
                for name, m in found.items()
            },
        }
        for case, found in rows
    ]
    return {"machine": machine, "cases": cases}


def _time(found: Measured, best: bool = False) -> str:
    if not found.seconds:
        return "-" if best else f"failed: {found.failed[:80]}".replace("|", "/")
    seconds = min(found.seconds) if best else found.median
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def _bytes(found: Measured) -> str:
    return f"{found.peak / 1e6:.0f} MB" if found.peak else "-"
