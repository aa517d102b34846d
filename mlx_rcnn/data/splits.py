"""Which images belong to train, val and test: VOC's lists, COCO's files, and folders named so."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

# Folders that tools export splits to, and what they are called here.
_FOLDER_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}

_SPLIT = re.compile(r"(train|validation|valid|val|test|minival|trainval)\d*")
_PEEKED = 3  # files opened to tell whose they are
_NAMED = 5  # files named in a message


class SplitError(ValueError):
    """There is no such split."""


def other_tool(data: object) -> str | None:
    """The tool whose JSON is not read, if this is such, and how to get COCO; else ``None``."""
    first = data[0] if isinstance(data, list) and data else data
    if not isinstance(first, dict):
        return None
    if "shapes" in first and "imagePath" in first:
        return "labelme's, not COCO: --format labelme reads it"
    if "_via_img_metadata" in first or "regions" in first:
        return "VIA's, not COCO: export it as COCO"
    if isinstance(data, list) and "data" in first and "annotations" in first:
        return "Label Studio's own JSON, not COCO: export it as COCO"
    if isinstance(data, list) and "image" in first and "annotations" in first:
        return "CreateML's, not COCO: export it as COCO"
    return None


def text_of(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with its mark; bytes that are none are replaced."""
    raw = path.read_bytes()
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    return raw.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def find_splits(
    root: Path, texts: Sequence[PurePosixPath], known: Collection[str]
) -> dict[str, list[tuple[PurePosixPath, list[str]]]]:
    """VOC's lists by split, ``ImageSets/**/<split>.txt`` or at the top, with the names in them."""
    inside = [path for path in texts if "ImageSets" in path.parts[:-1]]
    # ``ImageSets/Main`` has the say where there is one
    main = [path for path in inside if path.parent.name == "Main"]
    found: dict[str, list[tuple[PurePosixPath, list[str]]]] = {}
    for path in main or inside or [path for path in texts if len(path.parts) == 1]:
        lines = [line.strip() for line in text_of(root / path).splitlines() if line.strip()]
        columns = {len(line.split()) for line in lines}
        # Lists of one class (``cat_train.txt``, two columns) are not splits.
        if "_" in path.stem and columns != {1} and not _SPLIT.fullmatch(path.stem):
            continue
        names = [_listed(line, known) for line in lines]
        told = inside or _SPLIT.fullmatch(path.stem.lower())  # a list, whatever it holds
        # a list counts if it names an annotation
        if names and (told or any(_is_known(name, known) for name in names)):
            # several lists: one a year of VOC
            found.setdefault(path.stem, []).append((path, names))
    return found


def list_keys(name: str) -> list[str]:
    """What a line of a list, ``data/a.jpg``, may call an annotation by, the most telling first."""
    path = PurePosixPath(name)
    stem = PurePosixPath(path.stem)
    # without its folder, and without one or two suffixes (``a.jpg.xml``)
    return list(dict.fromkeys([path.name, path.stem, stem.stem]))


def _is_known(name: str, known: Collection[str]) -> bool:
    return any(key in known for key in list_keys(name))


def _listed(line: str, known: Collection[str]) -> str:
    """The name in a line, with slashes; a second column is left out unless it is of the name."""
    line = line.replace("\\", "/")
    if _is_known(line, known):
        return line
    for cut in (line.rpartition(" ")[0].strip(), line.split()[0], line.partition("\t")[0]):
        if cut and _is_known(cut, known):
            return cut
    return line


def folder_splits(paths: Sequence[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Relative paths by the split that a folder on their way names; ``valid`` is ``val``."""
    found: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        for part in path.parts[:-1]:
            if part.lower() in _FOLDER_SPLITS:
                found.setdefault(_FOLDER_SPLITS[part.lower()], []).append(path)
                break
    return found


def find_json(path: Path, split: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """The annotation file that a path and a split mean, and the splits; ValueError if not one."""
    if not path.is_dir():
        return path, ()
    found = json_files(path)  # in ``annotations/`` or one folder down
    splits = {file: split_names(file, path) for file in found}
    known = tuple(dict.fromkeys(names[0] for names in splits.values() if names))
    # told by the name of the file (``instances_val2017``) or of its folder (``valid/``)
    if split is not None:
        found = [file for file in found if split in splits[file]]
        if not found:
            raise SplitError(f"{path} has no split {split!r}: it has {', '.join(known) or 'none'}")
    if len(found) > 1:
        instances = [file for file in found if "instances" in file.stem]
        found = instances if len(instances) == 1 else found
    if len(found) != 1:
        for file in found[:_PEEKED]:
            tool = _tool_of(file)
            if tool is not None:
                raise ValueError(f"{path}: {file.name} is {tool}")
        names = ", ".join(str(file.relative_to(path)) for file in found[:_NAMED]) or "none"
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        cure = "; choose a split (--split) or name the file" if found else ""
        raise ValueError(f"{path}: expected one COCO JSON file, got {names}{more}{cure}")
    return found[0], known


def json_files(folder: Path) -> list[Path]:
    """JSON files in a folder or one below it, sorted, hidden ones left out."""
    found = {*folder.glob("*.json"), *folder.glob("*/*.json")}
    return sorted(
        f for f in found if not any(p.startswith(".") for p in f.relative_to(folder).parts)
    )


def split_names(file: Path, root: Path) -> list[str]:
    """What a split may be called by: ``val2017`` and ``val`` for ``instances_val2017.json``."""
    names: list[str] = []
    for word in (*reversed(re.split(r"[_.\-\s]", file.stem)), *file.relative_to(root).parts[:-1]):
        match = re.fullmatch(r"(train|validation|valid|val|test|minival)(\d*)", word.lower())
        if match:
            short = "val" if match[1].startswith("val") else match[1]
            names += [word, short + match[2], match[1], short]
    return list(dict.fromkeys(names))  # the most telling first


def _tool_of(file: Path) -> str | None:
    try:
        return other_tool(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError):  # said when it is opened as COCO
        return None
