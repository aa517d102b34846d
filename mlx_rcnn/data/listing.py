"""The files below a folder that a data set may consist of."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..inputs.images import IMAGE_SUFFIXES

_NOT_PHOTOS = ("SegmentationClass", "SegmentationObject")  # of the same stems as the photos
_DEEPEST = 20  # folders; more is a link that leads back up


@dataclass
class Files:
    """The files below a folder that matter, hidden ones left out, sorted; paths relative to it."""

    root: Path
    xml: list[PurePosixPath] = field(default_factory=list)
    images: list[PurePosixPath] = field(default_factory=list)
    text: list[PurePosixPath] = field(default_factory=list)
    json: list[PurePosixPath] = field(default_factory=list)
    yaml: list[PurePosixPath] = field(default_factory=list)
    darknet: list[PurePosixPath] = field(default_factory=list)  # ``.names`` and ``.data``

    def add(self, path: PurePosixPath) -> None:
        """Sort a path relative to ``root`` in by its suffix."""
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            if path.parent.name not in _NOT_PHOTOS:
                self.images.append(path)
        elif suffix in _KINDS:
            getattr(self, _KINDS[suffix]).append(path)


_KINDS = {
    ".xml": "xml",
    ".txt": "text",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".names": "darknet",
    ".data": "darknet",
}


def list_files(root: Path) -> Files:
    """Find annotations, images and split lists at any depth below a folder."""
    files = Files(root)
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(PurePosixPath(Path(folder).relative_to(root)).parts) > _DEEPEST:
            folders.clear()
        for name in sorted(names):
            if not name.startswith("."):  # macOS leaves ._a.xml files on foreign disks
                files.add(PurePosixPath(Path(folder, name).relative_to(root).as_posix()))
    return files
