"""A model of this package as SAHI takes models, for its slicing and its tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np


def sahi_model(
    model: Any,
    confidence_threshold: float = 0.3,
    mask_threshold: float = 0.5,
    **options: Any,
) -> Any:
    """A ``sahi.models.base.DetectionModel`` over a model: boxes, and masks where it has them.

    Slices that SAHI asks for at once are predicted as one batch. SAHI's ``device`` does not count:
    the model runs where MLX does. :func:`~mlx_rcnn.predict_tiled` slices without SAHI.

    Args:
        model: with ``predict`` and without need of proposals.
        confidence_threshold: least score of a detection, as SAHI has it. Default: ``0.3``.
        mask_threshold: of SAHI's base class; masks are those of ``predict``, at 0.5, whatever it
            says. Default: ``0.5``.
        **options: of SAHI's base class, such as ``category_remapping``.

    Returns:
        For ``sahi.predict.get_sliced_prediction(image, sahi_model(model), 512, 512)`` and
        ``get_prediction``; categories are the model's labels, 1 and up, with its names. Where there
        are masks, SAHI takes boxes from their outlines.

    Raises:
        ImportError: sahi is not installed; how to is said.
        ValueError: a model that needs proposals.
    """
    if getattr(model, "needs_proposals", False):
        raise ValueError(f"a {type(model).__name__} needs proposals: expected a model with its own")
    try:
        base = import_module("sahi.models.base").DetectionModel
        prediction = import_module("sahi.prediction").ObjectPrediction
        outlines = import_module("sahi.utils.cv").get_coco_segmentation_from_bool_mask
    except ImportError as error:
        raise ImportError("sahi is not installed: pip install sahi") from error
    kind = type("RCNNDetectionModel", (_Predicts, base), {})
    made = kind(
        model=model,
        confidence_threshold=confidence_threshold,
        mask_threshold=mask_threshold,
        load_at_init=False,
        **options,
    )
    made.make, made.outlines = prediction, outlines
    made.set_model(model)
    return made


class _Predicts:
    """What SAHI's base class leaves to a model; its names are the base's."""

    make: Any
    outlines: Any
    confidence_threshold: float
    names: Sequence[str] = ()
    has_mask = False

    def set_device(self, device: object = None) -> None:
        """SAHI's, of torch; kept and not used."""
        self.device = device

    def load_model(self) -> None:
        """There is nothing to load."""

    def set_model(self, model: Any, **_: object) -> None:
        """Take a model, and its names."""
        self.model, self.has_mask = model, bool(model.needs_masks)
        self.names = model.class_names or [f"class {i}" for i in range(model.num_classes)]
        self.category_mapping = {str(i): name for i, name in enumerate(self.names) if i}

    @property
    def category_names(self) -> list[str]:
        """Of labels 1 and up."""
        return list(self.names[1:])

    @property
    def num_categories(self) -> int:
        """Classes without the background."""
        return len(self.names) - 1

    def perform_inference(self, image: np.ndarray) -> None:
        """Predict one image (H, W, 3) of RGB."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Predict images as one batch."""
        self._original_predictions = self.model.predict(
            list(images), score_thresh=self.confidence_threshold
        )

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        found = self._original_predictions
        shifts = _each(shift_amount_list, len(found), [0, 0])
        shapes = _each(full_shape_list, len(found), None)
        self._object_prediction_list_per_image = [
            [self.make(**row, shift_amount=shift, full_shape=shape) for row in self._rows(one)]
            for one, shift, shape in zip(found, shifts, shapes, strict=True)
        ]

    def _rows(self, found: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
        """What SAHI's predictions are made of; a mask too small for an outline leaves a box."""
        rows = []
        for i, label in enumerate(found["labels"].tolist()):
            row = {"bbox": found["boxes"][i].tolist(), "score": float(found["scores"][i])}
            row |= {"category_id": label, "category_name": self.names[label]}
            if "masks" in found:
                row["segmentation"] = self.outlines(found["masks"][i]) or None
            rows.append(row)
        return rows


def _each(given: Any, count: int, default: Any) -> list[Any]:
    """SAHI's list, one an image; it may also be one for all."""
    if given is None:
        return [default] * count
    if given and not isinstance(given[0], list | tuple | np.ndarray):
        return [given] * count
    return list(given)
