"""Label Studio's ML backend, as ``label-studio-ml-backend`` 2 speaks it (``api.py``).

``POST /setup`` is sent when the backend is added, ``POST /predict`` with tasks and the project's
labelling config, ``POST /webhook`` when annotations change. Regions are in percent of the image
(``docs/source/guide/predictions.md`` of Label Studio).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict
from xml.etree.ElementTree import Element

import numpy as np

from ..data.outlines import mask_polygons
from ..data.xml_files import parse_xml
from ..messages import one_line
from ..ops.rle import decode_rle
from .answers import Row, detection_list
from .brush import encode_brush
from .limits import RequestError
from .worker import Found

if TYPE_CHECKING:
    from ..structures import Json

DEFAULT_CONFIG = """<View>
  <Image name="image" value="$image"/><RectangleLabels name="label" toName="image"/>
</View>"""
_CONTROLS = ("RectangleLabels", "PolygonLabels", "BrushLabels", "KeyPointLabels")
_DATA_URI = re.compile(r"data:(image/[\w.+-]+)?(;[\w=.+-]+)*;base64,", re.IGNORECASE)
_POINT_WIDTH = 0.5  # percent of the image, how large a keypoint is shown


@dataclass(frozen=True)
class Control:
    """A control tag: ``kind`` as in the config, ``from_name`` and ``to_name`` of its regions."""

    kind: str
    from_name: str
    to_name: str
    value: str  # the key of the task's data
    # the config's own spelling by a model's name in lower case; ``None``: every name goes
    labels: Mapping[str, str] | None
    thresh: float  # the least score

    def label(self, name: str) -> str | None:
        """What the config calls a class; ``None`` if it has none such."""
        return name if self.labels is None else self.labels.get(name.lower())


class _Region(TypedDict):
    id: str
    type: str
    from_name: str
    to_name: str
    original_width: int
    original_height: int
    image_rotation: int
    score: float
    value: dict[str, Json]


class Region(_Region, total=False):
    """One of Label Studio's: ``value`` is in percent of the image."""

    parentID: str


class Prediction(TypedDict):
    """Of a task: its regions, their mean score, and the model's version."""

    result: list[Region]
    score: float
    model_version: str


def read_request(body: bytes) -> dict[str, object]:
    """The JSON object of a body; a RequestError if it is none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise RequestError(400, f"the body is a JSON {type(content).__name__}: expected an object")
    return content


def read_controls(config: object, shown: float) -> list[Control]:
    """The control tags of a labelling config that a detector can fill; RequestError without any."""
    try:
        # nothing, for rectangles on ``image``
        root = parse_xml(str(config or DEFAULT_CONFIG).encode())
        images = {tag.get("name", ""): tag.get("value", "") for tag in root.iter("Image")}
        controls = [
            # ``shown`` is the threshold of those that have no ``model_score_threshold``
            _control(tag, images, shown)
            for kind in _CONTROLS
            for tag in root.iter(kind)
            if tag.get("toName") in images
        ]
    except ValueError as error:
        raise RequestError(400, f"the labelling config: {one_line(error)}") from error
    if not controls:
        raise RequestError(
            400, f"the labelling config has none of {', '.join(_CONTROLS)} on an <Image>"
        )
    return controls


def _control(tag: Element, images: Mapping[str, str], shown: float) -> Control:
    labels = {}
    for label in tag.iter("Label"):
        value = label.get("value", "")
        for name in (value, *label.get("predicted_values", "").split(",")):
            labels[name.strip().lower()] = value
    target = tag.get("toName", "")
    thresh = float(tag.get("model_score_threshold") or shown)
    value = images[target].lstrip("$")
    return Control(tag.tag, tag.get("name", ""), target, value, labels or None, thresh)


def task_image(task: object, key: str) -> bytes:
    """The image of a task, out of a ``data:`` URI; no path and no URL is ever opened."""
    data = task.get("data") if isinstance(task, Mapping) else None
    value = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(value, str):
        raise RequestError(400, f"a task has no data[{key!r}], which the labelling config names")
    match = _DATA_URI.match(value)
    if match is None:
        raise RequestError(
            422,
            f"data[{key!r}] is {value[:60]!r}: this server opens no path and no URL; expected the "
            "image itself, data:image/jpeg;base64,... (docs/serving.md shows how to import it so)",
        )
    try:
        return base64.b64decode(value[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"data[{key!r}] is not base64: {one_line(error)}") from error


def prediction(found: Found, controls: list[Control], version: str) -> Prediction:
    """One task's prediction: its regions, their mean score, and the model's version."""
    rows = detection_list(found)
    size = found.image.shape[0], found.image.shape[1]
    points = getattr(found.model, "keypoint_names", None) or ()
    regions: list[Region] = []
    for number, row in enumerate(rows):
        for control in controls:
            if row["score"] >= control.thresh:
                regions += _regions(control, row, number, size, points)
    scores = [region["score"] for region in regions]
    return {
        "result": regions,
        "score": float(np.mean(scores)) if scores else 0.0,
        "model_version": version,
    }


def _regions(
    control: Control, row: Row, number: int, size: tuple[int, int], points: Sequence[str]
) -> list[Region]:
    if control.kind == "KeyPointLabels":
        return _point_regions(control, row, number, size, points)
    label = control.label(row["name"])
    if label is None:
        return []
    if control.kind == "RectangleLabels":
        return [_region(control, label, row, str(number), size, _rectangle(row["box"], size))]
    if "mask" not in row:
        return []
    mask = decode_rle(row["mask"])
    if control.kind == "BrushLabels":
        value: dict[str, Json] = {"format": "rle", "rle": encode_brush(mask)}
        return [_region(control, label, row, f"{number}m", size, value)]
    scale = 100.0 / np.array(size[::-1], np.float64)
    values: list[dict[str, Json]] = [
        {"points": np.round(polygon.reshape(-1, 2) * scale, 4).tolist(), "closed": True}
        for polygon in mask_polygons(mask)[0]
    ]
    return [
        _region(control, label, row, f"{number}p{part}", size, value)
        for part, value in enumerate(values)
    ]


def _point_regions(
    control: Control, row: Row, number: int, size: tuple[int, int], points: Sequence[str]
) -> list[Region]:
    regions: list[Region] = []
    for k, (name, (x, y, seen)) in enumerate(zip(points, row.get("keypoints", ()), strict=False)):
        label = control.label(name)
        if label is None or not seen:
            continue
        value = {"x": 100 * x / size[1], "y": 100 * y / size[0], "width": _POINT_WIDTH}
        value = {key: round(v, 4) for key, v in value.items()}
        region = _region(control, label, row, f"{number}k{k}", size, value)
        regions.append({**region, "parentID": str(number)})
    return regions


def _rectangle(box: list[float], size: tuple[int, int]) -> dict[str, float]:
    height, width = size
    x1, y1, x2, y2 = box
    value = {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
    }
    return {name: round(v, 4) for name, v in value.items()}


def _region(
    control: Control,
    label: str,
    row: Row,
    identity: str,
    size: tuple[int, int],
    value: Mapping[str, Json],
) -> Region:
    kind = control.kind.lower()
    return {
        "id": identity,
        "type": kind,
        "from_name": control.from_name,
        "to_name": control.to_name,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "score": row["score"],
        "value": {**value, kind: [label]},
    }
