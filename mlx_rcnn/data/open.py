"""Open a dataset from a path, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .coco import open_coco
from .dataset import DetectionDataset
from .formats import cvat, labelme, yolo
from .formats.recognise import FORMATS, guess_format
from .items import Masks
from .listing import list_files
from .splits import folder_splits, json_files, split_names
from .voc import open_voc

_SPLITS_OF = {"yolo": yolo.splits, "labelme": labelme.splits, "cvat": cvat.splits}
_SPLITS = ("train", "trainval", "val", "valid", "validation", "test", "minival")


def open_dataset(
    path: str | os.PathLike[str],
    format: str | None = None,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    masks: Masks | None = False,
    *,
    keypoints: bool | None = False,
    images: str | os.PathLike[str] | None = None,
    strict: bool = False,
    levels: str | None = None,
) -> DetectionDataset:
    """Open annotations of VOC, COCO, YOLO, LabelMe or CVAT and check them; no image is decoded.

    What is wrong is dropped, and listed in ``defects``: images that are missing, unreadable or of
    another size than annotated, files that are not well formed, objects whose box has no area, is
    not finite, lies outside the image or comes up twice, whose class or image is unknown, and with
    ``masks`` those without a usable segmentation. Boxes that reach over the border are cut. With
    ``keypoints``, objects whose keypoints cannot be used stay as boxes without any.

    Args:
        path: a folder in one of the layouts of ``docs/data.md``, a COCO or LabelMe JSON file, a
            ``data.yaml`` or ``.data`` file of YOLO, or a CVAT XML file.
        format: ``"voc"``, ``"coco"``, ``"yolo"``, ``"labelme"`` or ``"cvat"``. Default: told by
            what is there.
        split: ``"train"``, ``"val"``, ... Default: everything; the only file of COCO's.
        class_names: the labels to use, as a model has them, the background first. Default: the
            data's own, alphabetical for VOC and LabelMe, by category id for COCO, in the order of
            the ``data.yaml`` or XML for YOLO and CVAT.
        masks: whether samples carry masks (VOC has none); objects without a segmentation are then
            dropped. ``None``: if the data has any. ``"kept"``: none is dropped and samples have no
            masks, but the outlines there are stay with the objects, to be written again.
        keypoints: whether samples carry keypoints (VOC has none). ``None``: if the data names
            some, and all classes the same ones. Default: ``False``.
        images: the folder that the names of images in COCO and CVAT files count from. Default:
            looked for.
        strict: make defects an error. Default: ``False``.
        levels: of images of more than 8 bits, as :func:`~mlx_rcnn.load_image` takes them. Default:
            ``None``.

    Returns:
        The dataset.

    Raises:
        FileNotFoundError: no such path.
        ValueError: no annotations, JSON of another kind, no such split, a class that
            ``class_names`` lacks, no image that can be used, or ``masks`` or ``keypoints`` of data
            that cannot have them.
        DatasetError: defects, with ``strict``; all are listed.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}")
    folder = Path(images) if images is not None else None
    dataset = _open(root, format, split, masks, keypoints, folder).with_levels(levels)
    if strict:
        dataset = dataset.strict()
    if not len(dataset):
        first = f"; {dataset.defects[0]}" if dataset.defects else ""
        raise ValueError(f"{root}: no image can be used{first}")
    return dataset if class_names is None else dataset.with_classes(class_names)


def _open(
    root: Path,
    format: str | None,
    split: str | None,
    masks: Masks | None,
    keypoints: bool | None,
    images: Path | None,
) -> DetectionDataset:
    if format is None:
        format = guess_format(root)
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected one of {FORMATS}")
    if format == "coco":
        return open_coco(root, split, images, masks, keypoints)
    if format == "cvat":
        return cvat.open_cvat(root, split, images, masks, keypoints)
    if format == "yolo":
        return yolo.open_yolo(root, split, masks, keypoints)
    if format == "labelme":
        return labelme.open_labelme(root, split, masks, keypoints)
    if not root.is_dir():
        raise ValueError(f"{root} is a file: expected a folder with VOC annotations")
    if masks is True:
        raise ValueError("VOC annotations hold no masks: expected masks=False, or COCO JSON")
    if keypoints:
        raise ValueError(
            f"{root}: VOC annotations hold no keypoints: expected keypoints=False, or COCO JSON"
        )
    return open_voc(list_files(root), split)


def splits_of(root: Path, format: str | None = None) -> tuple[str, ...]:
    """The splits that data says it has, whether or not they can be read; empty without any."""
    format = format or guess_format(root)
    if format in _SPLITS_OF:
        return _SPLITS_OF[format](root)
    if root.is_file():
        return ()
    if format == "coco":
        named = (split_names(file, root) for file in json_files(root))
        return tuple(dict.fromkeys(name for names in named for name in names))
    files = list_files(root)
    lists = [path for path in files.text if path.stem in _SPLITS]
    inside = [path for path in lists if "ImageSets" in path.parts[:-1]]
    main = [path for path in inside if path.parent.name == "Main"]
    chosen = main or inside or [path for path in lists if len(path.parts) == 1]
    # A list that names nothing known is a fault to be told of, not a folder without splits.
    return tuple(dict.fromkeys(p.stem for p in chosen)) or tuple(folder_splits(files.xml))
