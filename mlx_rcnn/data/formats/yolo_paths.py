"""Paths of YOLO data: what is written in lists, and where an image has its labels."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_IMAGE_FOLDERS = ("images", "jpegimages")


def resolve(root: Path, base: Path, entry: str) -> Path | None:
    """What a path in a list or a ``data.yaml`` means on this machine; ``None`` if nothing."""
    given = PurePosixPath(entry)
    # Not Path.exists, which raises on a name that is too long, or below a folder that is closed to
    # us: a path of another machine may be either.
    for folder in (base, root):
        if os.path.exists(folder / given):
            return _plain(folder / given)
    # Tools write paths from where they ran: what is not found as written, from the file or from the
    # root, is looked for below the root without its first folders.
    parts = [part for part in given.parts if part not in ("..", ".", "/")]
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if os.path.exists(path):
            return path
    return None


def _plain(path: Path) -> Path:
    """Without ``./`` and ``../``, so that one file has one name."""
    return path.resolve() if ".." in path.parts else path


def label_file(image: Path) -> Path:
    """Where an image has its labels, or should: ``labels/`` beside ``images/``, or next to it."""
    candidates = []
    for i in range(len(image.parts) - 2, -1, -1):
        if image.parts[i].lower() in _IMAGE_FOLDERS:
            candidates.append(Path(*image.parts[:i], "labels", *image.parts[i + 1 :]))
            break
    candidates.append(image)
    candidates.append(image.parent / "labels" / image.name)
    candidates.append(image.parent.parent / "labels" / image.name)
    named = [path.parent / f"{path.stem}.txt" for path in candidates]
    return next((path for path in named if os.path.isfile(path)), named[0])
