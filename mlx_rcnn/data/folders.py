"""Where the images of a COCO file are: folders as tools lay them out, names as tools write them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from .splits import split_names

_TRIED = 50  # images looked for to tell the folder
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before a name
_KINDS = re.compile(r"^(instances|person_keypoints|keypoints|annotations|captions)[_-]")


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _decoded(name: str) -> str:
    """Without the start of an URL, or of Label Studio's local files."""
    path = unquote(_slashes(name)).split("?d=")[-1]
    return re.sub(r"^(file://+|https?://[^/]*/|/+)", "", path)


def _bare(name: str) -> str:
    return PurePosixPath(_decoded(name)).name


def _without_upload(name: str) -> str:
    return _UPLOAD.sub("", _bare(name))


# As written first; each of the others is tried for what the ones before it do not find.
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    _slashes,
    _decoded,
    _bare,
    _without_upload,
)


def find_images(path: Path, names: Sequence[str], given: Path | None) -> dict[str, Path]:
    """A COCO file's images by name, where expected if missing; ValueError if none is found."""
    if given is not None and not given.is_dir():
        raise FileNotFoundError(f"no such folder of images: {given}")
    folders = [given] if given is not None else _near(path)  # ``None`` to look beside the JSON
    best = max(folders, key=lambda folder: _count(folder, names[:: max(len(names) // _TRIED, 1)]))
    found = _in_folder(best, names)
    if not any(os.path.isfile(file) for file in found.values()):
        best = max(folders, key=lambda folder: _count(folder, names))
        found = _in_folder(best, names)
    if not any(os.path.isfile(file) for file in found.values()):
        where = given or f"{path.parent} or the folders beside it"
        raise ValueError(
            f"{path}: none of its {len(names)} images ({names[0]}, ...) is in {where}; "
            "name their folder with --images (images= in Python)"
        )
    return found


def _near(path: Path) -> list[Path]:
    near = [path.parent, path.parent.parent]
    subset = _KINDS.sub("", path.stem)
    stems = dict.fromkeys([subset, *split_names(path, path.parent.parent), "default"])
    inner = ["images", "data", "JPEGImages", *stems, *(f"images/{stem}" for stem in stems)]
    return [*near, *(folder / name for folder in near for name in inner)]


def _count(folder: Path, names: Sequence[str]) -> int:
    if not folder.is_dir():
        return -1
    return sum(os.path.isfile(file) for file in _in_folder(folder, names).values())


def _in_folder(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Paths in one folder; two images never become the same file by another spelling."""
    found = {name: folder / name for name in names if os.path.isfile(folder / name)}
    taken = set(found.values())
    for spell in _SPELLINGS[1:]:
        left = [name for name in names if name not in found]
        spelled = [spell(name) for name in left]
        for name, other in zip(left, spelled, strict=True):
            file = folder / other
            if other and spelled.count(other) == 1 and file not in taken and os.path.isfile(file):
                found[name] = file
                taken.add(file)
    return {name: found.get(name, folder / name) for name in names}
