"""The files of a source: where a name leads, and what a checkpoint file holds."""

from __future__ import annotations

import os
from pathlib import Path

from .downloads import fetch
from .hub import fetch_repository, looks_like_repository
from .published import PUBLISHED


def find(source: str | os.PathLike[str]) -> Path:
    """The file or directory that a source names, downloaded if need be."""
    path, name = Path(source), str(source)
    if path.exists():  # an existing path comes first
        return path
    # perhaps after ``torchvision/``
    if (published := name.removeprefix("torchvision/")) in PUBLISHED:
        return fetch(published)
    theirs = name.startswith("torchvision/") or isinstance(source, os.PathLike)
    # ``owner/name`` or ``owner/name@revision`` of the Hugging Face Hub
    if not theirs and looks_like_repository(name):
        return fetch_repository(name)
    raise FileNotFoundError(
        f"no model {name!r}: expected a directory written by mlx_rcnn.save, a checkpoint file, a "
        f"repository of the Hugging Face Hub (owner/name), or one of {', '.join(PUBLISHED)}"
    )
