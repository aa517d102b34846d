"""Pictures of what is wrong in an image: what was found beside what is there."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...data.polygons import segmentation_mask, usable_polygons
from ...data.protocols import Dataset
from ...inputs.images import ImageError, load_image
from ...messages import one_line
from ...structures import Entry
from ..collect import Collected
from ..curves import Analysis
from ..matches import KINDS, MISSED, RIGHT, Matches, match
from .text import escape, percent, plural

SIDE = 560  # pixels of a picture's longer side
_GAP = 6
_RIGHT = (46, 160, 90)  # the outline of what is right
_QUALITY = 82
# Labels that draw_detections colours orange, yellow, brown, blue, red and pink; that many further
# on the hue is the same.
_COLOURS, _SAME_COLOUR = (40, 121, 116, 117, 35, 17), 144


class Shown(NamedTuple):
    """What pictures are made of: a model's detections, how they are scored, the images, a name."""

    collected: Collected
    analysis: Analysis
    dataset: Dataset | None
    name: str = ""


def figures(shown: Shown, image_ids: Sequence[int | str]) -> list[str]:
    """Two pictures an image, detections left and objects right, with a line of what is wrong."""
    numbers = {own: number for number, own in enumerate(shown.collected.ids, 1)}
    chosen = [numbers[own] for own in image_ids]
    part = _part(shown.collected, set(chosen))
    kind, thresh = shown.analysis["kind"], shown.analysis["confusion"]["score_thresh"]
    matches = match(part, kind)
    scores = {row["image_id"]: row for row in shown.analysis["images"]}
    places = _places(shown)
    dataset = shown.dataset
    assert dataset is not None
    parts = []
    for own, number in zip(image_ids, chosen, strict=True):
        row, seen = scores[own], _seen(matches, number, thresh)
        words = f"{plural(row['right'], 'object')} found, {row['wrong']} wrong"
        kinds = [KINDS[k] for k in matches.kinds[seen & (matches.kinds != RIGHT)].tolist()]
        if kinds:
            counts = (f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            words += f" ({', '.join(counts)})"
        words += f", {row['missed']} not found; F1 {percent(row['F1'])}"
        words = f"{shown.name}: {words}" if shown.name else words
        name, drawn = str(own), ""
        try:
            index = places[str(own)]
            name = _name(dataset, index, own)
            pixels = load_image(dataset[index].image)
            # what is right is outlined in green; what is wrong, or not found, is named
            picture = draw_both(pixels, part, matches, number, thresh)
            drawn = f'<img alt="{escape(name)}: {escape(words)}" src="{_data_uri(picture)}">'
        except (OSError, ImageError) as error:  # of an image that cannot be read its line alone
            words += f"; {one_line(error)}"
        caption = f"<figcaption><b><bdi>{escape(name)}</bdi></b> {escape(words)}</figcaption>"
        parts.append(f"<figure>{caption}{drawn}</figure>")
    return parts


def draw_both(
    pixels: np.ndarray, collected: Collected, matches: Matches, number: int, thresh: float
) -> Image.Image:
    """Detections and objects of one image (H, W, 3), two RGB pictures of at most 560 pixels."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = _bytes(pixels).resize(size, Image.Resampling.BILINEAR)
    names = collected.class_names
    seen = np.flatnonzero(_seen(matches, number, thresh))
    wrong = matches.kinds[seen] != RIGHT
    found = [collected.found[i] for i in matches.rows[seen].tolist()]
    kinds = matches.kinds[seen].tolist()
    there = np.flatnonzero(matches.object_images == number)
    lost = ~matches.found(thresh)[there]
    objects = [collected.truth[i] for i in matches.object_rows[there].tolist()]
    panels = [
        _panel(small, (height, width), found, wrong, kinds, names),
        _panel(small, (height, width), objects, lost, [MISSED] * len(objects), names),
    ]
    sheet = Image.new("RGB", (2 * size[0] + _GAP, size[1]), (128, 128, 128))
    for i, panel in enumerate(panels):
        sheet.paste(panel, (i * (size[0] + _GAP), 0))
    return sheet


def _panel(
    small: Image.Image,
    size: tuple[int, int],
    entries: Sequence[Entry],
    named: np.ndarray,
    kinds: Sequence[int],
    names: Sequence[str],
) -> Image.Image:
    """One picture: some entries outlined, those that are ``named`` drawn as detections are."""
    from PIL import ImageDraw

    from ...outputs.draw import draw_detections

    scale = np.array([small.width / size[1], small.height / size[0]] * 2)
    boxes = np.array([e["bbox"] for e in entries], np.float64).reshape(-1, 4)
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    picture = small.copy()
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2 in boxes[~named].tolist():
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=_RIGHT, width=2)
    rows = np.flatnonzero(named).tolist()
    labels, known = _labels_and_names(
        [kinds[i] for i in rows], [_readable(names, entries[i]["category_id"]) for i in rows]
    )
    drawn: dict[str, np.ndarray] = {"boxes": boxes[named], "labels": labels}
    if entries and "score" in entries[0]:
        drawn["scores"] = np.array([entries[i]["score"] for i in rows])
    if rows and all("segmentation" in entries[i] for i in rows):
        drawn["masks"] = np.stack([_mask(entries[i], size, small.size) for i in rows])
    result: Image.Image = draw_detections(np.asarray(picture), drawn, known)
    return result


def _labels_and_names(kinds: Sequence[int], classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Labels for ``draw_detections``, which names and colours by them: a colour a kind."""
    words = [f"{KINDS[kind]}: {name}" for kind, name in zip(kinds, classes, strict=True)]
    known, taken = {}, Counter[int]()
    for kind, text in zip(kinds, words, strict=True):
        if text not in known:
            known[text] = _COLOURS[kind] + _SAME_COLOUR * taken[kind]
            taken[kind] += 1
    names = [""] * (max(known.values(), default=0) + 1)
    for text, label in known.items():
        names[label] = text
    return np.array([known[text] for text in words], int), names


def _readable(names: Sequence[str], label: int) -> str:
    """A class's name in letters that the font has."""
    from ...outputs.lettering import readable

    return readable(names[label], label) or f"class {label}"


def _seen(matches: Matches, number: int, thresh: float) -> np.ndarray:
    """(D,) bool: the detections of an image that count at a score."""
    shown = (matches.images == number) & (matches.scores >= thresh) & ~matches.passed_over
    return np.asarray(shown)


def _mask(entry: Entry, size: tuple[int, int], small: tuple[int, int]) -> np.ndarray:
    """A mask at the size of the picture."""
    shape = entry["segmentation"]
    if not isinstance(shape, Mapping) and not usable_polygons(shape):
        return np.zeros(small[::-1], bool)
    mask = Image.fromarray(segmentation_mask(shape, *size))
    return np.asarray(mask.resize(small, Image.Resampling.NEAREST))


def _bytes(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _part(collected: Collected, numbers: set[int]) -> Collected:
    """Some of the images alone; their numbers stay."""
    images = [e for e in collected.images if e["id"] in numbers]
    truth = [e for e in collected.truth if e["image_id"] in numbers]
    found = [e for e in collected.found if e["image_id"] in numbers]
    return replace(collected, images=images, truth=truth, found=found)


def _places(shown: Shown) -> dict[str, int]:
    """Where each image stands in the data set, by its id: unreadable ones are not collected."""
    items = getattr(shown.dataset, "items", None)
    ids = shown.collected.ids if items is None else [item.image_id for item in items]
    return {str(own): place for place, own in enumerate(ids)}


def _name(dataset: Dataset, index: int, own: int | str) -> str:
    items = getattr(dataset, "items", None)
    return str(own) if items is None else items[index].path.name


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
