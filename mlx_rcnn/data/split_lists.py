"""Splits written down: lists of names for VOC, YOLO, LabelMe and CVAT, JSON files for COCO."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..files import replacing
from .coco import read_json
from .fields import whole
from .folders import find_images
from .formats.cvat import find_xml, subsets
from .formats.recognise import guess_format
from .formats.yolo_layout import find_config
from .items import Item
from .listing import list_files
from .protocols import OnDisk
from .splits import find_json, text_of

_KEYS = re.compile(r"""^["']?(path|train|val|valid|validation|test)["']?\s*:""")


def write_splits(
    path: Path,
    dataset: OnDisk,
    parts: Mapping[str, Sequence[int]],
    *,
    format: str | None = None,
    split: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write which images, by index in ``dataset``, belong to which split: all files or none."""
    format = format or guess_format(path)
    # COCO: a JSON file a split beside the one there is, all else in it unchanged.
    if format == "coco":
        files = _coco_files(path, dataset, parts, split)
    else:
        # VOC: ``ImageSets/Main/<split>.txt``. YOLO: ``<split>.txt`` beside the ``data.yaml``, which
        # then names them (what it said before stays as comments). LabelMe and CVAT: ``<split>.txt``
        # at the top.
        files = _list_files(path, dataset, parts, format)
    there = [file for file in files if file.exists() and file.suffix != ".yaml"]
    if there and not overwrite:
        named = ", ".join(str(file) for file in there)
        raise FileExistsError(f"{named}: there already; --overwrite replaces (overwrite=True)")
    with ExitStack() as stack:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = stack.enter_context(replacing(file))
            part.write_text(text, encoding="utf-8")
    return list(files)


def _list_files(
    path: Path, dataset: OnDisk, parts: Mapping[str, Sequence[int]], format: str
) -> dict[Path, str]:
    root = path if path.is_dir() else path.parent
    config: Path | None = None
    if format == "cvat":
        root = find_xml(path).parent
        if there := subsets(path):
            raise ValueError(f"{path} has subsets, {', '.join(there)}: these are its splits")
    elif format == "yolo":
        config = path if path.is_file() else find_config(list_files(root))
        if config is not None and config.suffix.lower() == ".data":
            raise ValueError(f"{config} names the splits: change its lists, or remove it")
        root = root if config is None else config.parent
    folder = root / "ImageSets" / "Main" if format == "voc" else root
    files = {}
    for name, indices in parts.items():
        lines = [_line(dataset.items[i], format, root) for i in indices]
        wrong = [line for line in lines if not line.isprintable() or line != line.strip()]
        if wrong:
            raise ValueError(f"{wrong[0]!r}: a name that no list can hold; rename the file")
        files[folder / f"{name}.txt"] = "".join(f"{line}\n" for line in lines)
    if config is not None:
        files[config] = _config_text(text_of(config), list(parts))
    return files


def _line(item: Item, format: str, root: Path) -> str:
    if format != "yolo":
        return str(item.image_id)
    image, folder = Path(os.path.abspath(item.path)), Path(os.path.abspath(root))
    inside = image.is_relative_to(folder)
    return f"./{image.relative_to(folder).as_posix()}" if inside else str(image)


def _config_text(text: str, names: Sequence[str]) -> str:
    """A ``data.yaml`` that names the lists; what it said of splits becomes a comment."""
    lines, inside = [], False
    for line in text.splitlines():
        below = not line.strip() or line[0] in " \t-#"
        inside = bool(_KEYS.match(line)) or (inside and below)
        lines.append(f"# {line}" if inside and line.strip() and not line.startswith("#") else line)
    return "\n".join([*lines, *(f"{name}: {name}.txt" for name in names), ""])


def _coco_files(
    path: Path, dataset: OnDisk, parts: Mapping[str, Sequence[int]], split: str | None
) -> dict[Path, str]:
    source = find_json(path, split)[0]
    content = read_json(source)
    files: dict[Path, str] = {}
    for name, indices in parts.items():
        items = {_key(dataset.items[i].image_id): dataset.items[i] for i in indices}
        target = source.with_name(f"{source.stem}_{name}.json")
        images = [dict(entry) for entry in content["images"] if _key(entry.get("id")) in items]
        _check_found(images, items, target)
        found = [entry for entry in content["annotations"] if _key(entry.get("image_id")) in items]
        text = json.dumps({**content, "images": images, "annotations": found}, ensure_ascii=False)
        files[target] = text
    return files


def _key(value: object) -> int | str:
    number = whole(value)
    return str(value) if number is None else number


def _check_found(
    images: list[dict[str, object]], items: Mapping[int | str, Item], target: Path
) -> None:
    """Name images so that they are found from the new file too, which may be called otherwise."""
    names = [str(entry["file_name"]) for entry in images]
    try:
        found = find_images(target, names, None)
    except ValueError:
        found = {}
    for entry, name in zip(images, names, strict=True):
        path = items[_key(entry["id"])].path
        if found.get(name) != path:
            entry["file_name"] = Path(os.path.relpath(path, target.parent)).as_posix()
