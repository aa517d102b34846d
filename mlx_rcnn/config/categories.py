"""Class names: of the data published checkpoints were trained on, and as users list them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

BACKGROUND = "__background__"
COCO = "coco"
"""Stands for COCO's names where names are given."""
NEVER_ANNOTATED = "N/A"
"""Stands where a numbering has a gap, as in COCO's 91."""

_MOST_IDS = 100_000  # a list as long as its largest id must fit into memory

# COCO's 91 slots as torchvision's checkpoints number them: 0 is the background, "N/A" was never
# annotated. Source: the COCO 2017 annotations' `categories`.
COCO_91 = (
    "__background__",
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "N/A",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "N/A",
    "backpack",
    "umbrella",
    "N/A",
    "N/A",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "N/A",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "N/A",
    "dining table",
    "N/A",
    "N/A",
    "toilet",
    "N/A",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "N/A",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)

COCO_80 = tuple(name for name in COCO_91 if name != "N/A")
"""The background and the 80 annotated classes, contiguous, as other libraries number them."""

COCO_PERSON = ("__background__", "person")

COCO_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""A person's keypoints: `keypoints` of COCO's category."""

# `skeleton` of COCO's category, which counts from 1.
COCO_SKELETON = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)
"""The edges drawn between them, indices from 0."""


def read_class_names(value: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names as a user lists them, in a file or between commas, by rising label."""
    path = Path(value)
    if not path.exists():
        text = os.fspath(value)
        if "," not in text:
            raise FileNotFoundError(
                f"No such file: {text} (expected a file of names, or names separated by commas)"
            )
        return _checked(text.removesuffix(",").split(","), "the names given")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file of class names")
    # UTF-8, or UTF-16 with its byte order mark: a name a line, or JSON, a list of names or a
    # dictionary of id to name. Ids that start at 0 are a list; others are the labels themselves, so
    # that the background comes first. Gaps hold ``"N/A"``.
    text = _text(path)
    if text.lstrip()[:1] not in ("[", "{"):
        return _checked([line for line in text.splitlines() if line.strip()], str(path))
    try:
        found = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} starts as JSON does, but is not: {error}") from error
    names = _by_id(found, str(path)) if isinstance(found, _Pairs) else found
    # whether the first is the background's is the caller's to decide
    return _checked(names, str(path))


def coco_names(num_classes: int) -> tuple[str, ...] | None:
    """COCO's names in the numbering of so many classes; ``None`` where it has none."""
    known = (COCO_91, COCO_80, COCO_PERSON)
    return next((names for names in known if len(names) == num_classes), None)


def class_names_of(value: str | os.PathLike[str], num_classes: int) -> tuple[str, ...]:
    """The ``num_classes`` names of a model, the background's first, as a user gives them."""
    # COCO's names in the numbering that so many classes have: 91 with the gaps, 81 without, 2 for
    # persons alone
    if str(value) == COCO and not Path(value).exists():
        if (coco := coco_names(num_classes)) is not None:
            return coco
        raise ValueError(
            f"{COCO}: the model has {num_classes} classes with the background, COCO's have "
            f"{len(COCO_91)}, {len(COCO_80)} or {len(COCO_PERSON)}"
        )
    names = read_class_names(value)
    if len(names) == num_classes - 1 and names[0] != BACKGROUND:
        names = (BACKGROUND, *names)
    if len(names) != num_classes:
        raise ValueError(
            f"{os.fspath(value)}: {len(names)} names, expected {num_classes - 1}, or {num_classes} "
            "with the background's first"
        )
    return names


class _Pairs(list[tuple[str, object]]):
    """A JSON object as written: a dictionary would hide ids that come up twice."""


def _text(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def _by_id(pairs: _Pairs, source: str) -> list[object]:
    ids = [int(key) if key.strip().isdecimal() else -1 for key, _ in pairs]
    if -1 in ids:
        key = pairs[ids.index(-1)][0]
        raise ValueError(f"{source} has the key {key!r}: expected ids to names, such as 1 to cat")
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise ValueError(f"{source} has the id {twice[0]} twice")
    if max(ids, default=0) > _MOST_IDS:
        raise ValueError(f"{source} has the id {max(ids)}: expected labels of a model")
    names: list[object] = [NEVER_ANNOTATED] * (max(ids, default=-1) + 1)
    if names and 0 not in ids:
        names[0] = BACKGROUND
    for i, (_, name) in zip(ids, pairs, strict=True):
        names[i] = name
    return names


def _checked(names: Sequence[object], source: str) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"{source}: 0 names, expected one at least")
    found: list[str] = []
    seen: dict[str, int] = {}
    for at, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise ValueError(f"{source}: expected a list of names, got {name!r} as the {at}. of it")
        name = name.strip()
        if not name:
            raise ValueError(f"{source}: name {at} is empty")
        if name != NEVER_ANNOTATED and seen.setdefault(name, at) != at:
            raise ValueError(f"{source}: {name!r} comes up twice, as names {seen[name]} and {at}")
        found.append(name)
    return tuple(found)
