"""Downloads of ``mlx_rcnn serve``: what ``predict`` and ``predict --save`` write, in memory."""

from __future__ import annotations

import argparse
import io
import re
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...outputs.coco import image_ids, results_of
from ...outputs.draw import draw_detections, readable_scale
from ...outputs.pictures import picture_paths, write_picture
from ...outputs.skeletons import skeleton_style
from ...serving.limits import RequestError
from ...serving.query import PICTURE, File, Files, Wish
from ...serving.worker import Found
from ..errors import CommandError
from ..predict.choice import SHOWN_SCORE
from ..predict.save import CROPS, CSV, KINDS, Saver

if TYPE_CHECKING:
    from ...models import Detector

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_LONGEST = 80  # characters of a name


def files_of(model: Detector) -> Files:
    """What can be downloaded of what a model finds: no annotations without class names."""
    named = KINDS if model.class_names is not None else (CSV, CROPS)
    return Files((PICTURE, *named), make_file, SHOWN_SCORE)


def make_file(found: Found, wish: Wish) -> File:
    """Write one kind of file: a picture or a table, or a zip of a folder."""
    name = file_name(wish.upload.name, wish.format)
    # On the disk, as the writers' folders are; it is gone when the file is in memory.
    with tempfile.TemporaryDirectory(prefix="mlx_rcnn-") as scratch:
        write = _picture if wish.kind == PICTURE else partial(_saved, folder=Path(scratch))
        return write(found, wish, Path(scratch) / name)


def file_name(given: str, format: str) -> str:
    """A harmless name for an image; folders in ``given`` do not count, ``format`` is Pillow's."""
    last = given.replace("\\", "/").rsplit("/", 1)[-1]
    stem = _UNSAFE.sub("_", Path(last).stem).strip(". ")[:_LONGEST]
    return f"{stem or 'image'}{_SUFFIXES.get(format, f'.{format.lower()}')}"


def _picture(found: Found, wish: Wish, path: Path) -> File:
    height, width = found.image.shape[:2]
    picture = draw_detections(
        found.image,
        found.prediction,
        found.model.class_names,
        score_thresh=wish.threshold,
        scale=readable_scale(width, height),
        **skeleton_style(found.model),
    )
    [target] = picture_paths([path], path.parent / PICTURE)
    target.parent.mkdir()
    write_picture(target, picture)
    media_type = "image/png" if target.suffix == ".png" else "image/jpeg"
    return File(target.read_bytes(), media_type, target.name)


def _saved(found: Found, wish: Wish, path: Path, folder: Path) -> File:
    out = folder / "out"
    out.mkdir()
    kind, plain = wish.kind, Path(path.name)
    path.write_bytes(wish.upload.data)
    # Data sets copy the image; tables name it, and must not name our scratch folder.
    source = plain if kind in (CSV, CROPS) else path
    args = argparse.Namespace(out=str(out), confidence=wish.threshold)
    [image_id] = image_ids([plain])
    try:
        saver = Saver(args, (kind,), found.model)
        entries = results_of(found.model, found.prediction, image_id, found.image)
        height, width = found.image.shape[:2]
        saver.add(source, image_id, (height, width), entries)
        saver.write_crops(source, entries, saver.crops(found.image, entries))
        saver.write()
    except CommandError as error:
        raise RequestError(422, str(error)) from error
    if kind == CSV:
        data = next(out.iterdir()).read_bytes()
        return File(data, "text/csv; charset=utf-8", f"{path.stem}.csv")
    return File(_zipped(out / kind), "application/zip", f"{path.stem}_{kind}.zip")


def _zipped(folder: Path) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return memory.getvalue()
