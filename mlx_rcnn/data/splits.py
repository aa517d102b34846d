"""Which images belong to train, val and test: VOC's lists, and folders that are named so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

# Folders that tools export splits to, and what they are called here.
_FOLDER_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def find_splits(
    root: Path, texts: Sequence[PurePosixPath], known: Collection[str]
) -> dict[str, list[tuple[PurePosixPath, list[str]]]]:
    """VOC's split lists: ``ImageSets/**/<split>.txt``, or ``<split>.txt`` at the top.

    Lists of one class (``cat_train.txt``, two columns) and of layouts or segmentations are not
    splits: ``ImageSets/Main`` has the say where there is one.

    Args:
        root: the folder.
        texts: its .txt files, relative.
        known: the stems of the annotations; a list counts if it names one.

    Returns:
        By split, its lists (one a year of VOC) and the names in them.
    """
    inside = [path for path in texts if "ImageSets" in path.parts[:-1]]
    main = [path for path in inside if path.parent.name == "Main"]
    found: dict[str, list[tuple[PurePosixPath, list[str]]]] = {}
    for path in main or inside or [path for path in texts if len(path.parts) == 1]:
        text = (root / path).read_text(encoding="utf-8-sig", errors="replace")
        lines = [line.split() for line in text.splitlines() if line.strip()]
        columns = {len(line) for line in lines}
        if "_" in path.stem and columns != {1}:
            continue
        names = [" ".join(line) for line in lines]
        if any(PurePosixPath(n).name in known or PurePosixPath(n).stem in known for n in names):
            found.setdefault(path.stem, []).append((path, names))
    return found


def folder_splits(paths: Sequence[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Splits by the name of a folder on the way to each file.

    Args:
        paths: relative.

    Returns:
        By split, its paths; ``valid`` is ``val``.
    """
    found: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        for part in path.parts[:-1]:
            if part.lower() in _FOLDER_SPLITS:
                found.setdefault(_FOLDER_SPLITS[part.lower()], []).append(path)
                break
    return found
