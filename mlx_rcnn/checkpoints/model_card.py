"""The model card of a converted model: what it is, whose weights, on what terms, how made."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_rcnn.convert.published import Known, known_weights

from ..models import Detector
from .published import TERMS, Terms


def model_card(model: Detector, command: str, repository: str | None = None) -> str:
    """The README.md of a model directory, as the Hub reads it: Markdown after a YAML head."""
    origin = model.origin
    known = known_weights(origin.file) if origin else None
    terms = TERMS.get(origin.library) if origin and known else None
    keypoints = "keypoint" in type(model).__name__.lower()
    second = "keypoint" if keypoints else "mask"
    task = "image-segmentation" if model.needs_masks else "object-detection"
    task = "keypoint-detection" if keypoints else task
    given = ", boxes" if getattr(model, "needs_proposals", False) else ""  # (P, 4), xyxy
    head: dict[str, str | list[str]] = {
        "library_name": "mlx",
        "pipeline_tag": task,
        "license": terms.licence if terms else "other",
        "tags": ["mlx", "mlx_rcnn", task, *([origin.library] if origin else [])],
    }
    if known:
        head["base_model"] = f"{origin.library}/{known.title}" if origin else known.title
        head["datasets"] = ["coco"]
    lines = ["---", *_yaml(head), "---", "", f"# {_title(model, known)}", ""]
    lines += [
        f"{type(model).__name__} for [mlx_rcnn](https://pypi.org/project/mlx-rcnn/), "
        f"{model.config.num_classes} classes with the background. "
        f"Source: {model.source or 'trained with mlx_rcnn'}.",
        "",
    ]
    if known and known.box is not None:
        ap = [f"box AP {known.box}", *([f"{second} AP {known.other}"] if known.other else [])]
        lines += [f"Published accuracy of the source on COCO val2017: {', '.join(ap)}.", ""]
    lines += [
        "```python",
        "import mlx_rcnn",
        "",
        f'model = mlx_rcnn.load("{repository or "path/of/this/directory"}")',
        f'print(model.predict("photo.jpg"{given})[0])',
        "```",
        "",
    ]
    lines += ["Made with:", "", "```", command, "```", "", "## Licence", ""]
    return "\n".join([*lines, _licence(model, terms)]) + "\n"


def _licence(model: Detector, terms: Terms | None) -> str:
    if terms:
        return f"{terms.text} Source: {terms.address}."
    if model.origin:
        return (
            f"The weights come from a file of the user's own, `{model.origin.file}`, in the format "
            f"of {model.origin.library}. They are under the terms of that file and of the weights "
            "it was trained from; say here which."
        )
    return "Say here on what terms these weights are."


def _title(model: Detector, known: Known | None) -> str:
    return known.title if known else type(model).__name__


def _yaml(values: Mapping[str, str | list[str]]) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {item}" for item in value)]
        else:
            lines.append(f"{key}: {value}")
    return lines
