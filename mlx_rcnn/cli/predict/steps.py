"""What ``predict`` does with a batch of images: reads it, has it predicted, and the rest.

The network and all of MLX stay in one thread. Reading, decoding and resizing may be done in one
ahead of it, and what is made of the results in one behind it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ...inputs.ahead import ahead
from ...inputs.images import ImageError
from ...models import ProposalNetwork, TestTimeAugment, Tiles, predict_tiled
from ...outputs.coco import image_ids, mask_option, results_of
from ...outputs.detections import Detections
from ...outputs.draw import draw_detections, readable_scale
from ...outputs.pictures import picture_file, picture_suffix
from ...outputs.skeletons import skeleton_style
from ..pages import Source, load_source
from ..sharing.first_machine import Found, Rest, Result
from .choice import select
from .received import ImageFound, proposed
from .report import shown_score, table_row
from .save import Saver

if TYPE_CHECKING:
    from ...models import Detector

View: TypeAlias = TestTimeAugment | Tiles | None
"""Several views of an image, or its tiles; ``None`` for the image as it is."""
_AHEAD = 1  # batches that wait, while one more is read


class _Batch(NamedTuple):
    """Images that could be read, with their places, as ``predict`` takes them; and what is said."""

    images: list[tuple[int, Any]]
    ready: Any
    problems: list[str]


class Steps:
    """Called with the places of a batch's images, has them predicted and gives the rest to do."""

    # ``given`` holds proposals by place, of a model that needs some; ``classes`` the labels kept.

    def __init__(
        self,
        args: argparse.Namespace,
        model: Detector,
        view: View,
        classes: list[int] | None,
        paths: list[Path],
        given: dict[int, np.ndarray] | None,
        saver: Saver,
    ) -> None:
        self._args, self._model, self._classes = args, model, classes
        self._paths, self._given, self._saver = paths, given, saver
        self._ids, self._predict = image_ids(paths), _runner(args, model, view, classes)
        self._how = isinstance(view, Tiles), model.config.image_levels
        # Views have several sizes; a stand-in of a model may have ``predict`` alone.
        plain = view is not None or not hasattr(model, "prepare")
        self._prepare: Callable[[list[Any]], Any] = list if plain else model.prepare
        self._waiting: Iterator[_Batch] | None = None

    @contextmanager
    def ahead(self, order: Sequence[range]) -> Iterator[None]:
        """Inside the block batches are read by a thread, in this order; by none if it is empty."""
        if not order:
            yield
            return
        with closing(ahead(map(self._read, order), _AHEAD)) as self._waiting:  # type: ignore[type-var]
            yield

    def __call__(self, chosen: range) -> Rest:
        """Have the images at these places predicted; what is left to do, any thread may."""
        batch = self._read(chosen) if self._waiting is None else next(self._waiting)
        images, ready, problems = batch
        del batch
        found: Found = {"images": [], "problems": problems, "seconds": 0.0}
        predictions: list[Detections] = []
        if images:
            began = time.perf_counter()
            boxes = () if self._given is None else ([self._given[i] for i, _ in images],)
            try:
                predictions = self._predict(ready, *boxes)
            except (ImageError, OSError) as error:  # damage that only a window comes upon
                problems.append(str(error))
                images = []
            else:
                found["seconds"] = time.perf_counter() - began
        return partial(self._rest, found, images, predictions)

    def _read(self, chosen: range) -> _Batch:
        images: list[tuple[int, Any]] = []
        problems: list[str] = []
        for i in chosen:
            try:
                images.append((i, load_source(self._paths[i], *self._how)))
            except (OSError, ValueError, ImportError) as error:
                problems.append(str(error))
        ready = self._prepare([image for _, image in images]) if images else []
        return _Batch(images, ready, problems)

    def _rest(
        self,
        found: Found,
        images: Sequence[tuple[int, Any]],
        predictions: Sequence[Detections],
    ) -> Result:
        """What is kept of a batch, and its files."""
        files: list[bytes] = []
        for (i, image), prediction in zip(images, predictions, strict=True):
            own: ImageFound = {}
            if isinstance(self._model, ProposalNetwork):
                own["proposed"] = proposed(prediction)
            prediction = select(prediction, self._classes, self._args.top_k)
            entries = results_of(self._model, prediction, self._ids[i], image)
            names = self._model.class_names
            row = table_row(self._args, self._paths[i], image, prediction, names)
            if not self._args.no_images:
                files.append(self._picture(self._paths[i], image, prediction))
            crops = self._saver.crops(image, entries)
            files += crops
            size = image.shape[:2]
            own |= {"place": i, "size": size, "entries": entries, "row": row}
            own["crops"] = len(crops)
            found["images"].append(own)
        return found, files

    def _picture(self, path: Path, image: Source, prediction: Detections) -> bytes:
        """The file of an annotated picture."""
        picture = draw_detections(
            image,
            prediction,
            self._model.class_names,
            score_thresh=shown_score(self._args),
            scale=readable_scale(image.shape[1], image.shape[0]),
            **skeleton_style(self._model),
        )
        return picture_file(picture, picture_suffix(path))


def _runner(
    args: argparse.Namespace, model: Detector, view: View, classes: list[int] | None
) -> Callable[..., list[Detections]]:
    """The model's prediction, with what the command line says of it."""
    top_k = args.top_k
    if classes is not None and top_k is not None:
        # The cut comes after the choice of classes: other classes must not use it up.
        top_k = max(top_k, getattr(model.config, "box_detections_per_img", 0))
    # Without pictures masks become RLE one at a time: all of an image can be more than memory has.
    options: dict[str, object] = {**mask_option(model)} if args.no_images else {}
    if isinstance(view, TestTimeAugment):
        options["augment"] = view
    run_model = model.predict
    if isinstance(view, Tiles):
        run_model = partial(predict_tiled, model, tiles=view)
    thresholds = {"score_thresh": args.score_thresh, "nms_thresh": args.nms_thresh}
    return partial(run_model, top_k=top_k, **thresholds, **options)
