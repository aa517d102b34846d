"""PASCAL VOC annotations: devkit folders, and loose folders of images and XML files.

Boxes are the numbers of the XML as they stand, cut to the image. The devkit counts pixels from 1;
tools that people annotate with count from 0 as often, and torchvision's own VOC reader leaves the
numbers alone too, so nothing is subtracted: predictions come out in the frame of the XML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from ..inputs.images import IMAGE_SUFFIXES
from .categories import similar_names
from .dataset import DetectionDataset
from .fields import mark
from .items import Item, RawObject, check_class_names, drop_below_a_pixel, make_item
from .listing import Files
from .sample import Defect
from .splits import SplitError, find_splits, folder_splits, list_keys
from .xml_files import read_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(files: Files, split: str | None = None) -> DetectionDataset:
    """Read VOC annotations of a folder; ValueError for no annotations, or no such split."""
    if not files.xml:
        raise ValueError(f"no annotations in {files.root}: expected VOC XML files")
    # A split is a list ``ImageSets/**/<split>.txt``, a ``<split>.txt`` at the top, or else a folder
    # of that name.
    lists = find_splits(files.root, files.text, {key for path in files.xml for key in _stems(path)})
    folders = folder_splits(files.xml)
    chosen, defects = files.xml, list[Defect]()
    if split is not None:
        chosen = _of_split(files, split, lists, folders, defects)
    parsed = {path: _parse(files.root / path) for path in files.xml}
    # all those in the folder, whatever the split, in alphabetical order
    names = sorted({o.name for p in parsed.values() if isinstance(p, _Parsed) for o in p.objects})
    if not names and all(isinstance(p, Defect) for p in parsed.values()):
        raise ValueError(f"no VOC annotation in {files.root}; {next(iter(parsed.values()))}")
    labels = {name: label for label, name in enumerate(names, 1)}
    # An XML file belongs to the image of the same stem (or, failing that, of the stem of its
    # ``filename``), in the same folder or else the one nearest to it.
    stems = _by_stem(files.images)
    ids = _image_ids(chosen)
    items = [_item(files, path, parsed[path], stems, ids[path], labels, defects) for path in chosen]
    defects.extend(similar_names(names, files.root))
    drop_below_a_pixel(items, files.root, defects)
    if split is None:
        used = {item.path for item in items if item}
        annotated = {key for path in files.xml for key in _stems(path)}
        for image in files.images:
            if image.stem not in annotated and files.root / image not in used:
                defects.append(Defect(str(files.root / image), "no annotation", "image dropped"))
    return DetectionDataset(
        [item for item in items if item],
        check_class_names(names),
        defects=tuple(defects),
        format="voc",
        splits=tuple(lists) or tuple(folders),
    )


@dataclass(slots=True)
class _Object:
    name: str
    box: tuple[float, ...]
    difficult: bool
    number: int


@dataclass(slots=True)
class _Parsed:
    filename: str
    size: tuple[int, int] | None
    objects: list[_Object]
    defects: list[tuple[int, str]]


def _parse(path: Path) -> _Parsed | Defect:
    """One XML file; what cannot be read at all is a defect."""
    try:
        root = read_xml(path)
    except OSError as error:
        return Defect(str(path), f"cannot read the XML: {error}", "image dropped")
    except ValueError as error:
        return Defect(str(path), str(error), "image dropped")
    if root.tag != "annotation":
        problem = f"not a VOC annotation: <{root.tag}>, expected <annotation>"
        return Defect(str(path), problem, "image dropped")
    found = _Parsed(
        (root.findtext("filename") or "").strip().replace("\\", "/"), _size(root), [], []
    )
    for number, element in enumerate(root.findall("object"), 1):
        name = (element.findtext("name") or "").strip()
        try:
            # Of the object itself: VOC's person layout has parts with boxes of their own.
            corners = [element.find("bndbox/" + corner) for corner in _CORNERS]
            box = tuple(float(corner.text or "") for corner in corners if corner is not None)
        except ValueError:
            box = ()
        if not name or len(box) != 4:
            problem = "no name" if not name else "bndbox: expected four numbers"
            found.defects.append((number, problem))
            continue
        difficult = mark(element.findtext("difficult")) or False
        found.objects.append(_Object(name, box, difficult, number))
    return found


def _size(root: Element) -> tuple[int, int] | None:
    """(height, width) as annotated; ``None`` where missing or zero, as some tools write it."""
    try:
        height, width = (int(float(root.findtext(f"size/{k}") or 0)) for k in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _item(
    files: Files,
    path: PurePosixPath,
    parsed: _Parsed | Defect,
    stems: dict[str, list[PurePosixPath]],
    image_id: str,
    labels: dict[str, int],
    defects: list[Defect],
) -> Item | None:
    if isinstance(parsed, Defect):
        defects.append(parsed)
        return None
    keys = [*_stems(path), PurePosixPath(parsed.filename).stem]
    near: list[PurePosixPath] = next((stems[key] for key in keys if key in stems), [])
    if not near:
        problem = f"no image {parsed.filename or path.stem}"
        defects.append(Defect(str(files.root / path), problem, "image dropped"))
        return None
    image = files.root / _nearest(path, near, parsed.filename)
    name = str(image)
    for number, problem in parsed.defects:
        defects.append(Defect(f"{name}, object {number}", problem, "object dropped"))
    objects = [
        RawObject(f"object {o.number} ({o.name})", o.box, labels[o.name], difficult=o.difficult)
        for o in parsed.objects
    ]
    return make_item(image, image_id, name, parsed.size, objects, defects)


def _stems(path: PurePosixPath) -> list[str]:
    """What an image may be called by its annotation: ``a`` too for ``a.jpg.xml``."""
    inner = PurePosixPath(path.stem)
    return [path.stem, inner.stem] if inner.suffix.lower() in IMAGE_SUFFIXES else [path.stem]


def _by_stem(paths: Sequence[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    found: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        found.setdefault(path.stem, []).append(path)
    return found


def _nearest(
    path: PurePosixPath, candidates: list[PurePosixPath], filename: str = ""
) -> PurePosixPath:
    """The candidate beside ``path``, or that shares most of its folders with it."""
    # Counted from the top and from the bottom: images/train/a.jpg for annotations/train/a.xml.

    def shared(a: Sequence[str], b: Sequence[str]) -> int:
        same = [x == y for x, y in zip(a, b, strict=False)]
        return [*same, False].index(False)

    def rank(other: PurePosixPath) -> tuple[bool, int, bool, int]:
        a, b = path.parent.parts, other.parent.parts
        both = shared(a, b) + shared(a[::-1], b[::-1])
        return a == b, both, other.name == filename, -len(b)

    return max(candidates, key=rank)


def _image_ids(paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, str]:
    """The stem, as VOC numbers its images, or the path for stems that come up twice."""
    stems = _by_stem(paths)
    return {
        path: path.stem if len(stems[path.stem]) == 1 else path.with_suffix("").as_posix()
        for path in paths
    }


def _of_split(
    files: Files,
    split: str,
    lists: dict[str, list[tuple[PurePosixPath, list[str]]]],
    folders: dict[str, list[PurePosixPath]],
    defects: list[Defect],
) -> list[PurePosixPath]:
    """The XML files of a split, in its order."""
    if split not in lists:
        if split in folders:
            return folders[split]
        known = ", ".join(lists or folders) or "none"
        raise SplitError(f"{files.root} has no split {split!r}: it has {known}")
    stems: dict[str, list[PurePosixPath]] = {}
    for path in files.xml:
        for key in _stems(path):
            stems.setdefault(key, []).append(path)
    chosen: dict[PurePosixPath, None] = {}
    for where, names in lists[split]:
        for name in names:
            near = next((stems[key] for key in list_keys(name) if key in stems), None)
            if not near:
                defects.append(
                    Defect(str(files.root / where), f"{name}: no such annotation", "image dropped")
                )
                continue
            path = _nearest(where.parent / PurePosixPath(name), near)
            if path in chosen:
                problem = f"{name} comes up twice"
                defects.append(Defect(str(files.root / where), problem, "image dropped"))
            chosen[path] = None
    if not chosen:
        where, names = lists[split][0]
        raise ValueError(
            f"{files.root / where}: none of its {len(names)} lines ({names[0]}, ...) is an "
            "annotation here: expected their names, or another --split"
        )
    return list(chosen)
