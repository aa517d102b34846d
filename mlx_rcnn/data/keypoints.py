"""Keypoints in COCO's terms: what a category says of them, what an annotation holds, mirror images.

A keypoint is x, y in pixels of the image and a visibility: 0 not annotated, 1 hidden, 2 seen. The
numbers are kept as they stand in the file, as torchvision does (detectron2 adds half a pixel, to
take a whole number for the centre of a pixel: see :func:`shift_keypoints`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np

from .fields import Fields, number, shown
from .sample import Defect, Target

_VISIBILITIES = (0, 1, 2)
_FAR = 1e6  # pixels
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


class KeypointKind(NamedTuple):
    """The keypoints that every object of a data set has."""

    names: tuple[str, ...]  # (K,): one a keypoint
    # pairs of keypoints to join when drawn, counted from 0; ``None`` if not said
    skeleton: tuple[tuple[int, int], ...] | None


def category_keypoints(
    categories: Sequence[Fields], path: Path, defects: list[Defect]
) -> KeypointKind | None:
    """What a COCO file's categories say of keypoints; ``None`` if nothing, ValueError if two."""
    # those without ``keypoints`` are objects that have none
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
    # edges that name no keypoint are defects
    edges = _edges(first.get("skeleton") or [], len(names), path, defects)
    return KeypointKind(tuple(names), tuple(edges) or None)


def read_keypoints(values: object, count: int) -> tuple[np.ndarray, str | None]:
    """(K, 3) float64 of 3 * K numbers x, y, visibility, zero if unusable; and what is wrong."""
    points = np.zeros((count, 3))
    if values is None or (isinstance(values, list) and not values):
        return points, None
    if not isinstance(values, list) or len(values) != 3 * count:
        got = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        return points, f"keypoints: expected {3 * count} numbers, got {got}"
    problem = None
    for i in range(count):
        *place, seen = values[3 * i : 3 * i + 3]
        visibility, at = number(seen), [number(v) for v in place]
        if visibility == 0:  # x and y may then be anything
            continue
        if visibility not in _VISIBILITIES:
            problem = problem or f"keypoints: visibility {shown(seen)}, expected 0, 1 or 2"
        elif at[0] is None or at[1] is None or max(abs(at[0]), abs(at[1])) > _FAR:
            wrong = f"keypoint {i + 1} at {shown(place[0])}, {shown(place[1])}"
            problem = problem or f"keypoints: {wrong}, expected two finite numbers of pixels"
        else:
            points[i] = at[0], at[1], visibility
    return points, problem


def mirror_partners(names: Sequence[str], pairs: Sequence[str] | None = None) -> list[int]:
    """K indices: what each keypoint becomes in a mirror, ``left_eye`` the ``right_eye``."""
    partners = list(range(len(names)))
    # such as ``"left_eye:right_eye"``; the names are then not read, and all that is not in a pair
    # stays itself
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
    # A side is the word left or right, the letter l or r as a word of its own or as the capital in
    # front of a capitalised word (``L_Eye``, ``LShoulder``, ``LF_elbow``), or left and right at
    # either end of a word (``leftshoulder``) where the other side has the same.
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


def _edges(
    skeleton: object, count: int, path: Path, defects: list[Defect]
) -> list[tuple[int, int]]:
    """Counted from 0, whether the file counts from 1, as COCO does, or from 0."""
    given = skeleton if isinstance(skeleton, list) else [skeleton]
    shifted = [[v + 1 if isinstance(v, int) else v for v in e] for e in given if _is_list(e)]
    from_0 = any(0 in edge for edge in given if _is_list(edge))
    if from_0:
        pairs = [edge for edge in shifted if _is_edge(edge, count)]
        if len(pairs) != len(given):
            problem = f"skeleton counts from 0, but not within 0 to {count - 1}"
            defects.append(Defect(str(path), problem, "edges dropped"))
            return []
        problem = "skeleton counts from 0, COCO's from 1"
        defects.append(Defect(str(path), problem, "counted from 0"))
        return [(edge[0] - 1, edge[1] - 1) for edge in pairs]
    edges = []
    for edge in given:
        if _is_edge(edge, count):
            edges.append((edge[0] - 1, edge[1] - 1))
        else:
            problem = f"skeleton holds {shown(edge)}, expected pairs of 1 to {count}"
            defects.append(Defect(str(path), problem, "edge dropped"))
    return edges


def _is_list(edge: object) -> TypeGuard[list[object]]:
    return isinstance(edge, list)


def _is_edge(edge: object, count: int) -> TypeGuard[list[int]]:
    return (
        isinstance(edge, list)
        and len(edge) == 2
        and all(isinstance(end, int) and 1 <= end <= count for end in edge)
    )


def _said(category: Fields) -> str:
    names = category["keypoints"]
    shown = f"{names[0]}, ..." if isinstance(names, list) and names else names
    count = len(names) if isinstance(names, list) else "no list"
    return f"{category.get('name')!r} has {count} ({shown})"


def shift_keypoints(targets: Sequence[Target], offset: float) -> Sequence[Target]:
    """Targets whose keypoints lie ``offset`` pixels further right and below; 0 changes nothing."""
    if not offset:
        return targets
    step = np.array([offset, offset, 0.0], np.float32)
    return [
        {**target, "keypoints": np.asarray(target["keypoints"], np.float32) + step}
        if "keypoints" in target
        else target
        for target in targets
    ]
