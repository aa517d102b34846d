"""Which images belong to train, val and test: VOC's lists, COCO's files, and folders named so."""

from __future__ import annotations

import re
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


def find_json(path: Path, split: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """The annotation file that a path and a split mean.

    Args:
        path: a JSON file, or a folder with some in it, in ``annotations/`` or one folder down.
        split: told by the name of the file (``instances_val2017``) or of its folder (``valid/``).

    Returns:
        The file, and the splits to choose from.

    Raises:
        ValueError: none, or more than one.
    """
    if not path.is_dir():
        return path, ()
    found = json_files(path)
    splits = {file: split_names(file, path) for file in found}
    known = tuple(dict.fromkeys(names[0] for names in splits.values() if names))
    if split is not None:
        found = [file for file in found if split in splits[file]]
        if not found:
            raise ValueError(f"{path} has no split {split!r}: it has {', '.join(known) or 'none'}")
    if len(found) > 1:
        instances = [file for file in found if "instances" in file.stem]
        found = instances if len(instances) == 1 else found
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(path)) for file in found) or "none"
        raise ValueError(
            f"{path}: expected one COCO JSON file, got {names}"
            + ("; choose a split or name the file" if found else "")
        )
    return found[0], known


def json_files(folder: Path) -> list[Path]:
    """JSON files in a folder or one below it, hidden ones left out.

    Args:
        folder: where to look.

    Returns:
        Sorted paths.
    """
    found = {*folder.glob("*.json"), *folder.glob("*/*.json")}
    return sorted(
        f for f in found if not any(p.startswith(".") for p in f.relative_to(folder).parts)
    )


def split_names(file: Path, root: Path) -> list[str]:
    """What a split may be called by: ``val2017`` and ``val`` for ``instances_val2017.json``.

    Args:
        file: a JSON file.
        root: the folder below which names count.

    Returns:
        Names, the most telling first.
    """
    names: list[str] = []
    for word in (*reversed(re.split(r"[_.\-\s]", file.stem)), *file.relative_to(root).parts[:-1]):
        match = re.fullmatch(r"(train|validation|valid|val|test|minival)(\d*)", word.lower())
        if match:
            short = "val" if match[1].startswith("val") else match[1]
            names += [word, short + match[2], match[1], short]
    return list(dict.fromkeys(names))
