"""Where the images of a CVAT file are, as its exports lay them out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..listing import Files


def by_file_name(files: Files) -> dict[str, list[PurePosixPath]]:
    """The relative paths of images by the name of their file."""
    found: dict[str, list[PurePosixPath]] = {}
    for path in files.images:
        found.setdefault(path.name, []).append(path)
    return found


def image_file(
    files: Files, by_name: Mapping[str, Sequence[PurePosixPath]], name: str, subset: str
) -> Path:
    """The file of an image: in the folder, in ``images/``, in one of its subset, or anywhere."""
    folders = [f"images/{subset}/", f"{subset}/"] if subset else []
    tried = [files.root / f"{f}{name}" for f in (*folders, "images/", "", "images/default/")]
    found = next((path for path in tried if os.path.isfile(path)), None)
    if found is None:
        same = by_name.get(PurePosixPath(name).name, ())
        found = files.root / same[0] if len(same) == 1 else None
    # of one that is nowhere, or in several places, where it was expected
    return found or tried[len(folders)]
