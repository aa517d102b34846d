"""Keypoints in COCO's terms: what a category says of them, what an annotation holds, mirror images.

A keypoint is x, y in pixels of the image and a visibility: 0 not annotated, 1 hidden, 2 seen. The
numbers are kept as they stand in the file, as torchvision does (detectron2 adds half a pixel, to
take a whole number for the centre of a pixel).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .sample import Defect

_VISIBILITIES = (0, 1, 2)
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


class KeypointKind(NamedTuple):
    """The keypoints that every object of a data set has.

    Args:
        names (K,): one a keypoint.
        skeleton: pairs of keypoints to join when drawn, counted from 0; ``None`` if not said.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] | None


def category_keypoints(
    categories: Sequence[Mapping[str, Any]], path: Path, defects: list[Defect]
) -> KeypointKind | None:
    """What the categories of a COCO file say of keypoints.

    Args:
        categories: those without ``keypoints`` are objects that have none.
        path: of the file, for messages.
        defects: edges of a skeleton that name no keypoint are added here.

    Returns:
        The kind, ``None`` if no category has keypoints.

    Raises:
        ValueError: names that are no names, or categories that differ in their keypoints.
    """
    having = [category for category in categories if category.get("keypoints")]
    if not having:
        return None
    first, *others = having
    names = first["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: category {first.get('name')!r}: expected keypoints as names")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path}: two keypoints have the same name: {', '.join(twice)}")
    for other in others:
        if other["keypoints"] != names:
            raise ValueError(
                f"{path}: categories differ in their keypoints: {_said(first)}, {_said(other)}; "
                "expected the same names of all that have any"
            )
    edges = []
    for edge in first.get("skeleton") or ():
        if _is_edge(edge, len(names)):
            edges.append((edge[0] - 1, edge[1] - 1))
        else:
            problem = f"skeleton holds {edge}, expected pairs of 1 to {len(names)}"
            defects.append(Defect(str(path), problem, "edge dropped"))
    return KeypointKind(tuple(names), tuple(edges) or None)


def read_keypoints(values: Any, count: int) -> tuple[np.ndarray, str | None]:
    """The keypoints of one annotation.

    Args:
        values: x, y, visibility of each in one list of 3 * K numbers, or ``None``.
        count: K.

    Returns:
        (K, 3) float64, zero where the visibility is, and all zero if something is wrong.
        What is wrong, or ``None``.
    """
    none = np.zeros((count, 3))
    if values is None:
        return none, None
    try:
        points = np.asarray(values)
    except ValueError:  # lists in it, of several lengths
        points = np.zeros(0, object)
    if points.dtype.kind not in "iuf" or points.shape != (3 * count,):
        got = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        return none, f"keypoints: expected {3 * count} numbers, got {got}"
    points = points.astype(np.float64).reshape(count, 3)
    if not np.isfinite(points).all():
        return none, "keypoints: a number is not finite"
    odd = points[~np.isin(points[:, 2], _VISIBILITIES), 2]
    if odd.size:
        return none, f"keypoints: visibility {odd[0]:g}, expected 0, 1 or 2"
    return np.where(points[:, 2:] > 0, points, 0.0), None


def mirror_partners(names: Sequence[str], pairs: Sequence[str] | None = None) -> list[int]:
    """What each keypoint becomes in a mirror: ``left_eye`` the ``right_eye``.

    A side is the word left or right, the letter l or r as a word of its own or as the capital in
    front of a capitalised word (``L_Eye``, ``LShoulder``, ``LF_elbow``), or left and right at
    either end of a word (``leftshoulder``) where the other side has the same.

    Args:
        names (K,): of the keypoints.
        pairs: ``"left_eye:right_eye"``, names that swap; the names are then not read, and all that
            is not in a pair stays itself. Default: ``None``.

    Returns:
        K indices; applied twice they give 0, 1, ..., K - 1.

    Raises:
        ValueError: a name that holds a side and has no partner, or pairs of unknown names.
    """
    partners = list(range(len(names)))
    if pairs is not None:
        for pair in pairs:
            ends = [name.strip() for name in pair.split(":")]
            if len(ends) != 2 or len({*ends}) != 2 or not {*ends} <= {*names}:
                raise ValueError(
                    f"keypoint_pairs: {pair!r}, expected two of {', '.join(names)} joined by ':'"
                )
            a, b = (list(names).index(end) for end in ends)
            if partners[a] != a or partners[b] != b:
                raise ValueError(f"keypoint_pairs: {pair!r} pairs a name that has a partner")
            partners[a], partners[b] = b, a
        return partners
    lone = []
    place = {_words(name): i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        found = [place[m] for m in _mirrors(name) if place.get(m, i) != i]
        if found:
            partners[i] = found[0]
        elif _SIDE_WORD.search(_words(name)):
            lone.append(name)
    lone += [names[i] for i, j in enumerate(partners) if partners[j] != i]
    if lone:
        raise ValueError(
            f"keypoints {', '.join(lone)} name a side and have no partner to swap with in a "
            "mirror: give keypoint_pairs (--keypoint-pairs LEFT:RIGHT,...), or hflip 0 "
            "(--hflip 0)"
        )
    return partners


_SIDE_WORD = re.compile(r"(?<![a-z])(left|right|l|r)(?![a-z])")
_CAPITAL_SIDE = re.compile(r"(?<![A-Za-z])([LR])(?=[A-Z])")
_END_SIDE = re.compile(r"(?<![a-z])(left|right)(?=[a-z])|(?<=[a-z])(left|right)(?![a-z])")


def _words(name: str) -> str:
    """``leftEye`` as ``left_eye``: then every word has an end."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _mirrors(name: str) -> list[str]:
    """What the other side may be called, the surest first."""
    words = _words(name)
    # Not \b, which takes an underscore for a part of the word.
    sure = _SIDE_WORD.sub(lambda found: _SIDES[found[0]], words)
    capital = _CAPITAL_SIDE.sub(lambda found: "R" if found[0] == "L" else "L", name)
    glued = _END_SIDE.sub(lambda found: _SIDES[found[0]], words)
    return [other for other in (sure, _words(capital), glued) if other != words]


def _is_edge(edge: Any, count: int) -> bool:
    return (
        isinstance(edge, list)
        and len(edge) == 2
        and all(isinstance(end, int) and 1 <= end <= count for end in edge)
    )


def _said(category: Mapping[str, Any]) -> str:
    names = category["keypoints"]
    shown = f"{names[0]}, ..." if isinstance(names, list) and names else names
    count = len(names) if isinstance(names, list) else "no list"
    return f"{category.get('name')!r} has {count} ({shown})"
