"""A detector of another kind started from a checkpoint: its network, and the heads that fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields
from typing import NamedTuple, TypeVar

import mlx.core as mx

from ..layers import weights_to_come
from ..models import Detector
from ..models.quantized import restored
from .load import load
from .weights import flat_parameters

M = TypeVar("M", bound=Detector)
FIXED = ("depth", "variant")  # of a backbone, by the builder's name
OF_KIND = ("backbone", "feat_channels")


class Taken(NamedTuple):
    """What became of a checkpoint's arrays, by names of modules such as ``roi_heads.mask_head``."""

    taken: tuple[str, ...]  # whose arrays are the checkpoint's
    new: tuple[str, ...]  # whose are not, in part at least
    unused: tuple[str, ...]  # which of the checkpoint's are left over
    arrays: int  # how many are the checkpoint's

    def __str__(self) -> str:
        left = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return (
            f"{self.arrays} arrays of {', '.join(self.taken)}; new: "
            f"{', '.join(self.new) or 'nothing'}{left}"
        )


def start_from(
    build: Callable[..., M], source: str | os.PathLike[str] | Detector, **config: object
) -> tuple[M, Taken]:
    """Build a detector and start it from a checkpoint of another kind.

    The backbone and the settings are the checkpoint's, those of the heads by the new model's kind;
    the backbone's weights are taken whole, and of the rest those whose name and shape fit. So a
    Faster R-CNN becomes a Mask R-CNN with an untrained mask head. For the same kind with other
    classes, :func:`mlx_rcnn.load` is enough: training makes its predictors new.

    >>> model, taken = start_from(mask_rcnn_resnet_50_fpn, "fasterrcnn_resnet50_fpn")
    >>> print(taken)
    289 arrays of backbone, rpn, roi_heads.box_head, ...; new: roi_heads.mask_head, ...

    Args:
        build: a builder, such as ``mlx_rcnn.mask_rcnn_resnet_50_fpn``.
        source: anything that :func:`mlx_rcnn.load` takes, or a model.
        **config: fields that are to be others than the checkpoint's.

    Returns:
        The model, its weights float32, and what it has of the checkpoint.

    Raises:
        FileNotFoundError, OSError: no such checkpoint.
        TypeError: an unknown field.
        ValueError: another backbone.
    """
    found = source if isinstance(source, Detector) else load(source)
    name = type(found).__name__ if isinstance(source, Detector) else str(source)
    with weights_to_come():
        kind = build()
    _check_backbone(kind, found, name)
    given = _settings(kind, found)
    if config.get("num_classes", found.num_classes) != found.num_classes:
        given["class_names"] = None
    model = build(**{**given, **config})
    taken = _take(model, found, name)
    model.source = f"{type(model).__name__} from {found.source or name}"
    return model, taken


def _check_backbone(kind: Detector, found: Detector, source: str) -> None:
    """Refuse a backbone of another type or depth than the builder's."""
    ours, theirs = kind.backbone.config, getattr(found.backbone, "config", None)
    for name in ("", *FIXED):
        a, b = (getattr(c, name, None) if name else type(c).__name__ for c in (ours, theirs))
        if a != b:
            what = f"a backbone of {name}" if name else "as its backbone"
            raise ValueError(
                f"{source} has {what} {b}, and the model {what} {a}: expected the same backbone"
            )


def _settings(kind: Detector, found: Detector) -> dict[str, object]:
    """Keywords for the builder: the checkpoint's fields, but for what its kind has otherwise."""
    body = found.backbone.config
    given = {f.name: getattr(body, f.name) for f in fields(body) if f.name not in FIXED}
    given["backbone_num_classes"] = given.pop("num_classes")
    ours = {f.name: f for f in fields(kind.config)}
    for field in fields(found.config):
        value = getattr(found.config, field.name)
        same = field.name in ours and _default(ours[field.name]) == _default(field)
        if field.name in ours and field.name not in OF_KIND and (same or value != _default(field)):
            given[field.name] = value
    return given


def _default(field: Field[object]) -> object:
    return field.default if field.default is not MISSING else None


def _take(model: Detector, found: Detector, source: str) -> Taken:
    """Put in what fits; the backbone fits whole or not at all."""
    ours, theirs = flat_parameters(model), restored(found)
    fit = [k for k, v in theirs.items() if k in ours and ours[k].shape == v.shape]
    odd = sorted(k for k in {*ours, *theirs} - {*fit} if k.startswith("backbone."))
    if odd:
        raise ValueError(
            f"{source} has another backbone than the model, such as in {odd[0]}: expected the same "
            "norms and widths"
        )
    model.load_weights([(k, theirs[k].astype(ours[k].dtype)) for k in fit], strict=False)
    mx.eval(model.parameters())
    new, taken = _modules(k for k in ours if k not in fit), _modules(fit)
    unused = _modules(k for k in theirs if k not in fit)
    return Taken(tuple(m for m in taken if m not in new), new, unused, len(fit))


def _modules(names: Iterable[str]) -> tuple[str, ...]:
    """``roi_heads.box_head`` of ``roi_heads.box_head.fc6.weight``, ``rpn`` of ``rpn.head...``."""
    parts = (name.split(".") for name in names)
    return tuple(dict.fromkeys(".".join(p[: 2 if p[0] == "roi_heads" else 1]) for p in parts))
