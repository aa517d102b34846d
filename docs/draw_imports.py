"""Draws which room of the package imports which: python docs/draw_imports.py [--check].

Reads the code as text and writes docs/architecture.svg; nothing but the standard library is needed.
A room is a folder or a loose module; it stands one floor above the highest room it imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
LEFT_OUT = {"__main__", "__init__", "moved"}  # the doors: they import nearly everything, or nothing
BOX, GAP, FLOOR = 128, 18, 104  # of a room, between two, from floor to floor


def modules() -> dict[str, Path]:
    """Every module by its import name."""
    found = {}
    for top, name in ((ROOT / "mlx_rcnn", "mlx_rcnn"), (ROOT / "convert", "mlx_rcnn.convert")):
        for path in sorted(top.rglob("*.py")):
            parts = [name, *path.relative_to(top).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> Iterator[str]:
    """Modules of this package that one imports, at any depth of its code."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(name: str) -> str:
    """The first part of a name below mlx_rcnn."""
    return name.split(".")[1] if "." in name else "__init__"


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        own = found.setdefault(room(name), set())
        for target in imports(name, path):
            if target.startswith("mlx_rcnn.") and room(target) != room(name):
                own.add(room(target))
    rooms = set(found) - LEFT_OUT
    return {name: found[name] & rooms for name in sorted(rooms)}


def floors(below: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room, 0 for those that import no other."""
    level: dict[str, int] = {}

    def rise(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise SystemExit(f"a circle of imports: {' -> '.join([*above, name])}")
        if name not in level:
            inner = (rise(other, (*above, name)) for other in sorted(below[name]))
            level[name] = 1 + max(inner, default=-1)
        return level[name]

    for name in below:
        rise(name, ())
    return level


def reachable(name: str, below: dict[str, set[str]]) -> set[str]:
    """Every room that a room reaches."""
    return below[name].union(*(reachable(other, below) for other in below[name]))


def size(name: str) -> str:
    """How many modules a room has: the picture changes when the structure does, not each line."""
    own = [m for m, path in modules().items() if room(m) == name and path.name != "__init__.py"]
    return f"{len(own)} modules" if len(own) > 1 else "1 module"


def width(level: dict[str, int]) -> int:
    """Of the picture: the widest floor's."""
    most = max(list(level.values()).count(floor) for floor in set(level.values()))
    return most * (BOX + GAP) + GAP


def places(level: dict[str, int], below: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Top left corner of each box: a floor is ordered by where what it imports stands."""
    top, found = max(level.values()), dict[str, tuple[float, float]]()
    for floor in range(top + 1):
        row = [name for name in sorted(level) if level[name] == floor]
        pull = {n: sum(found[o][0] for o in below[n]) / max(len(below[n]), 1) for n in row}
        row.sort(key=lambda name: (pull[name], name))
        left = (width(level) - len(row) * BOX - (len(row) - 1) * GAP) / 2
        for i, name in enumerate(row):
            found[name] = (left + i * (BOX + GAP), 20 + (top - floor) * FLOOR)
    return found


def draw() -> str:
    """The picture as SVG. An arrow that a longer way implies is not drawn."""
    below = arrows()
    level = floors(below)
    at = places(level, below)
    wide = width(level)
    height = 20 + (max(level.values()) + 1) * FLOOR - 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {height}" '
        f'font-family="sans-serif" font-size="13">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#678"/></marker></defs>',
        f'<rect width="{wide}" height="{height}" fill="#fff"/>',
    ]
    for name, others in below.items():
        implied = set[str]().union(*(reachable(other, below) for other in others))
        for other in sorted(others - implied):
            (x, y), (u, v) = at[name], at[other]
            x, y, u = x + BOX / 2, y + 44, u + BOX / 2
            parts.append(
                f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {y + 40:.0f} {u:.0f} {v - 40:.0f} {u:.0f} '
                f'{v:.0f}" fill="none" stroke="#678" marker-end="url(#a)"/>'
            )
    for name, (x, y) in at.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX}" height="44" rx="4" fill="#e6eef6" '
            f'stroke="#345"/><text x="{x + BOX / 2:.0f}" y="{y + 19:.0f}" text-anchor="middle" '
            f'font-weight="bold">{name}</text><text x="{x + BOX / 2:.0f}" y="{y + 35:.0f}" '
            f'text-anchor="middle" fill="#567" font-size="11">{size(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == draw()
        sys.exit(None if current else "docs/architecture.svg is old: python docs/draw_imports.py")
    PICTURE.write_text(draw(), encoding="utf-8")
