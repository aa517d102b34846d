"""Where a YOLO data set has its names, its splits, its images and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...config.categories import COCO_KEYPOINTS
from ...inputs.images import IMAGE_SUFFIXES
from ..fields import Fields, whole
from ..keypoints import mirror_partners
from ..listing import Files, list_files
from ..sample import Defect
from ..splits import folder_splits, text_of
from .yaml import read_yaml
from .yolo_paths import resolve
from .yolo_rows import PoseKind

_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
NO_LABELS = ("classes", "labels", "notes", "readme", "license", "predefined_classes")
"""Text files beside images that are no labels, by the start of their name in lower case."""


@dataclass
class YoloLayout:
    """What the files around the labels say."""

    root: Path  # the folder
    files: Files  # all below the folder
    config: Path | None = None  # the ``data.yaml`` or ``.data`` file, if there is one
    names: list[str] | None = None  # of the classes, in their order; ``None`` if nowhere
    # what each split is made of: folders, lists and images, as written
    splits: dict[str, list[str]] = field(default_factory=dict)
    pose: PoseKind | None = None  # keypoints of each object; ``None`` for none
    defects: list[Defect] = field(default_factory=list)


def read_layout(path: Path) -> YoloLayout:
    """Find names and splits; ValueError for several files that could be meant, or a bad one."""
    root = path.parent if path.is_file() else path
    files = list_files(root)
    # A ``data.yaml`` has the say, then a Darknet ``.data`` file, then ``classes.txt`` or another
    # list of names, lists ``train.txt``, ... at the top, and folders named after splits.
    config = path if path.is_file() else find_config(files)
    layout = YoloLayout(root, files, config)
    if config is not None and config.suffix.lower() == ".data":
        _read_darknet(layout, config)
    elif config is not None:
        _read_config(layout, config)
    if layout.names is None:
        layout.names = _listed_names(files)
    if not layout.splits:
        layout.splits = _found_splits(files)
    return layout


def find_config(files: Files) -> Path | None:
    """The file that names classes and splits, or ``None``; ValueError if there are several."""
    for candidates in (
        [path for path in files.yaml if _names_classes(files.root / path)],
        [path for path in files.darknet if path.suffix.lower() == ".data"],
    ):
        top = min((len(path.parts) for path in candidates), default=0)
        nearest = [path for path in candidates if len(path.parts) == top]
        if len(nearest) > 1:
            named = ", ".join(str(path) for path in nearest[:5])
            raise ValueError(f"{files.root} has several files of classes: name one of {named}")
        if nearest:
            return files.root / nearest[0]
    return None


def _names_classes(path: Path) -> bool:
    try:
        lines = text_of(path).splitlines()
    except OSError:
        return False
    return any(line.startswith(("names:", "nc:")) for line in lines)


def _read_config(layout: YoloLayout, config: Path) -> None:
    content = read_yaml(text_of(config), str(config))
    layout.names = _class_names(content, config)
    base = content.get("path")
    if base is not None and not isinstance(base, str):
        raise ValueError(f"{config}: path: expected a folder")
    for key, split in _SPLIT_KEYS.items():
        value = content.get(key)
        entries = [value] if isinstance(value, str) else value
        if entries in (None, ["~"], ["null"], []):
            continue
        if not isinstance(entries, list) or not all(isinstance(e, str) and e for e in entries):
            raise ValueError(f"{config}: {key}: expected a folder, a list of images, or several")
        layout.splits.setdefault(split, []).extend(_based(base, entry) for entry in entries)
    layout.pose = _pose(content, config, layout)


def _based(base: str | None, entry: str) -> str:
    entry = entry.replace("\\", "/")
    return entry if not base else f"{base.replace(chr(92), '/').rstrip('/')}/{entry}"


def _class_names(content: Fields, config: Path) -> list[str] | None:
    names = content.get("names")
    if isinstance(names, dict):
        numbers = [whole(key) for key in names]
        if sorted(n for n in numbers if n is not None) != list(range(len(names))):
            raise ValueError(f"{config}: names: expected the numbers 0, 1, 2, ... as keys")
        by_number = dict(zip(numbers, names.values(), strict=True))
        names = [by_number[i] for i in range(len(names))]
    if names is None:
        count = whole(content.get("nc"))
        return None if not count else [f"class_{i}" for i in range(min(count, 100_000))]
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(f"{config}: names: expected a list of names, or numbers and names")
    return [name.strip() for name in names]


def _pose(content: Fields, config: Path, layout: YoloLayout) -> PoseKind | None:
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    sizes = [whole(size) for size in shape] if isinstance(shape, list) else []
    if len(sizes) != 2 or not sizes[0] or sizes[0] < 1 or sizes[1] not in (2, 3):
        raise ValueError(f"{config}: kpt_shape: expected [K, 2] or [K, 3]")
    count = sizes[0]
    given = content.get("kpt_names")
    if isinstance(given, dict) and given:
        given = next(iter(given.values()))
    if isinstance(given, list) and len(given) == len(set(map(str, given))) == count:
        return PoseKind(tuple(str(name) for name in given), int(sizes[1] or 0))
    names = [f"keypoint_{i + 1}" for i in range(count)]
    flips = [whole(i) for i in content.get("flip_idx") or []]
    if sorted(i for i in flips if i is not None) == list(range(count)):
        names = _flip_names(count, [int(i or 0) for i in flips])
    else:
        problem = "kpt_shape without kpt_names or flip_idx: a mirror swaps no keypoints"
        layout.defects.append(Defect(str(config), problem, f"named {names[0]}, ..."))
    return PoseKind(tuple(names), int(sizes[1] or 0))


def _flip_names(count: int, flips: Sequence[int]) -> list[str]:
    """Names of which those that a mirror swaps are a left and a right one."""
    if count == len(COCO_KEYPOINTS) and mirror_partners(COCO_KEYPOINTS) == list(flips):
        return list(COCO_KEYPOINTS)
    names = []
    for i, other in enumerate(flips):
        side = "" if other == i else ("left_" if i < other else "right_")
        names.append(f"{side}keypoint_{min(i, other) + 1}")
    return names


def _read_darknet(layout: YoloLayout, config: Path) -> None:
    pairs = [line.partition("=") for line in text_of(config).splitlines() if "=" in line]
    content = {key.strip(): value.strip() for key, _, value in pairs}
    for key in ("train", "valid", "test"):
        if content.get(key):
            layout.splits[_SPLIT_KEYS[key]] = [content[key].replace("\\", "/")]
    if content.get("names"):
        path = resolve(layout.root, config.parent, content["names"])
        layout.names = _lines(path) if path is not None else None


def _listed_names(files: Files) -> list[str] | None:
    known = [*files.text, *files.darknet]
    for path in sorted(known, key=lambda path: len(path.parts)):
        if path.name.lower() in _NAME_FILES or path.suffix.lower() == ".names":
            return _lines(files.root / path)
    return None


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def _found_splits(files: Files) -> dict[str, list[str]]:
    lists = {
        _SPLIT_KEYS[path.stem.lower()]: [path.as_posix()]
        for path in files.text
        if len(path.parts) == 1 and path.stem.lower() in _SPLIT_KEYS
    }
    return lists or {
        split: [path.as_posix() for path in paths]
        for split, paths in folder_splits(files.images).items()
    }


def split_images(layout: YoloLayout, split: str) -> list[Path]:
    """A split's images in order, of which some may not exist; entries to nowhere become defects."""
    base = layout.root if layout.config is None else layout.config.parent
    found: dict[Path, None] = {}
    for entry in layout.splits[split]:
        path = resolve(layout.root, base, entry)
        if path is None:
            where = str(layout.config or layout.root)
            problem = f"{split}: {entry} is neither a folder nor a list of images here"
            layout.defects.append(Defect(where, problem, "images dropped"))
        elif path.is_dir():
            found.update(dict.fromkeys(path / image for image in list_files(path).images))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            found[path] = None
        else:
            for line in _lines(path):
                image = resolve(layout.root, path.parent, line.replace("\\", "/"))
                known = image or path.parent / line
                if known in found:
                    problem = f"{line} comes up twice"
                    layout.defects.append(Defect(str(path), problem, "image dropped"))
                found[known] = None
    return list(found)
