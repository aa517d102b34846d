"""The outline of a mask as polygons along the edges of its pixels.

Drawn again by :func:`~mlx_rcnn.data.polygons.polygon_mask`, as pycocotools does it, they give the
same pixels. Formats of one polygon an object have no holes and no second part: those are joined to
the outline by a bridge, a line to and fro that encloses nothing where insides are told by counting
crossings.
"""

from __future__ import annotations

import numpy as np

Point = tuple[int, int]
Ring = list[Point]


def mask_polygons(mask: np.ndarray) -> tuple[list[np.ndarray], int]:
    """A polygon for each part of an (H, W) mask, holes joined by bridges; and how many holes."""
    inside = np.pad(np.asarray(mask) != 0, 1)
    rings = _rings(inside)
    outer = [bool(inside[ring[0][1] + 1, ring[0][0] + 1]) for ring in rings]
    # Holes the other way round, so that areas by the shoelace formula are right too.
    rings = [r if o else [r[0], *r[:0:-1]] for r, o in zip(rings, outer, strict=True)]
    steps = _bridged(rings, outer, inside)
    # Pixels that touch by a corner alone are two parts.
    parts = [_walked(number, steps) for number in range(len(rings)) if outer[number]]
    # (2 * K,) of x, y, ... in pixels, whole numbers, from the top down
    polygons = [np.array(part, np.float64).reshape(-1) for part in parts]
    return polygons, len(rings) - len(parts)


def one_polygon(polygons: list[np.ndarray]) -> np.ndarray:
    """Join polygons (2 * K,) that do not overlap to one by bridges; drawn, it is all of them."""
    first = polygons[0].reshape(-1, 2)
    joined = [first]
    for polygon in polygons[1:]:
        points = polygon.reshape(-1, 2)
        # Along the axes, so that both ways cross the same pixels.
        corner = np.array([[points[0, 0], first[0, 1]]])
        joined += [first[:1], corner, points, points[:1], corner]
    return np.concatenate([*joined, first[:1]] if len(joined) > 1 else joined).reshape(-1)


def _corners(inside: np.ndarray) -> tuple[np.ndarray, ...]:
    """x, y of every corner, and on which side its horizontal and vertical edge lie (0 or 1)."""
    # The corner of two pixels that touch there alone comes twice, once for each of them.
    a, b = inside[:-1, :-1], inside[:-1, 1:]  # above: left and right
    c, d = inside[1:, :-1], inside[1:, 1:]
    single = (a ^ b ^ c ^ d) | ((a == d) & (b == c) & (a != b))
    y, x = np.nonzero(single)
    falling = (a & d & ~b & ~c)[y, x]  # from top left to bottom right
    rising = (b & c & ~a & ~d)[y, x]
    double = falling | rising
    right, down = (a ^ c)[y, x] == 0, (a ^ b)[y, x] == 0
    # Of a doubled corner the first is the upper pixel's: left of a falling one, right of a rising.
    right, down = np.where(double, rising, right), np.where(double, False, down)
    again = np.flatnonzero(double)
    return (
        np.concatenate([x, x[again]]),
        np.concatenate([y, y[again]]),
        np.concatenate([right, falling[again]]).astype(np.int64),
        np.concatenate([down, np.ones(len(again), bool)]).astype(np.int64),
    )


def _partners(line: np.ndarray, along: np.ndarray, side: np.ndarray) -> list[int]:
    """The other end of each corner's edge: corners of a line pair up in their order."""
    order = np.lexsort((side, along, line))
    partner = np.empty(len(order), np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return [int(i) for i in partner]


def _rings(inside: np.ndarray) -> list[Ring]:
    """Closed outlines, each from its topmost and then leftmost corner to the right."""
    x, y, right, down = _corners(inside)
    if not len(x):
        return []
    across, along = _partners(y, x, right), _partners(x, y, down)
    xs, ys = x.tolist(), y.tolist()
    left = np.ones(len(x), bool)
    rings = []
    # By rows from the top, so that each ring is met at the corner it is to start from.
    for start in np.lexsort((x, y)).tolist():
        if not left[start]:
            continue
        ring, at = [], start
        while left[at]:
            other = across[at]
            left[at] = left[other] = False
            ring += [(xs[at], ys[at]), (xs[other], ys[other])]
            at = along[other]
        rings.append(ring)
    return rings


def _bridged(rings: list[Ring], outer: list[bool], inside: np.ndarray) -> list[list[Point | int]]:
    """What to walk along for each ring: its corners, and the numbers of holes that join it."""
    # A hole joins the first edge on the left of its top left corner. The ring of that edge starts
    # above, or further left, so that no two holes join each other.
    steps: list[list[Point | int]] = [list(ring) for ring in rings]
    if all(outer):
        return steps
    owner, corner = (np.zeros(inside.shape, np.int64) for _ in range(2))
    for number, ring in enumerate(rings):
        for i in range(int(outer[number]), len(ring), 2):  # the edges down and up
            (x, start), (_, end) = ring[i], ring[(i + 1) % len(ring)]
            rows = slice(min(start, end), max(start, end))
            owner[rows, x], corner[rows, x] = number, i
    joins: dict[int, list[tuple[int, int, int, int]]] = {}
    for number, ring in enumerate(rings):
        if not outer[number]:
            x0, y0 = ring[0]
            # In the padded row: the edge lies right of the pixel outside.
            x1 = int(np.flatnonzero(~inside[y0 + 1, : x0 + 1])[-1])
            joins.setdefault(int(owner[y0, x1]), []).append((int(corner[y0, x1]), y0, x1, number))
            steps[number].append(ring[0])
    for number, holes in joins.items():
        ring = rings[number]

        def along(join: tuple[int, int, int, int], ring: Ring = ring) -> tuple[int, int]:
            i, y0 = join[:2]
            return i, y0 if ring[i][1] < ring[(i + 1) % len(ring)][1] else -y0

        for i, y0, x1, hole in sorted(holes, key=along, reverse=True):
            steps[number][i + 1 : i + 1] = [(x1, y0), hole, (x1, y0)]
    return steps


def _walked(start: int, steps: list[list[Point | int]]) -> Ring:
    """The corners of a ring, into each of its holes and back; not recursive, as chains are long."""
    found: Ring = []
    stack = [iter(steps[start])]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif isinstance(step, int):
            stack.append(iter(steps[step]))
        else:
            found.append(step)
    return found
