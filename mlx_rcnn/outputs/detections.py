"""What ``predict`` gives: a mapping of NumPy arrays that can draw, cut out and hand itself on."""

from __future__ import annotations

import io
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np

from ..inputs.images import load_image
from ..messages import nearest
from .coco import coco_results

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Self, Unpack

    from ..inputs.pixels import AnyArray
    from ..inputs.video import Frame
    from ..structures import Entry, ImageLike
    from .skeletons import DrawOptions, SkeletonStyle

Rows: TypeAlias = int | slice | Sequence[int] | np.ndarray
"""What chooses detections; a sequence holds numbers, or ``True`` and ``False``."""
Given: TypeAlias = "ImageLike | AnyArray"
_LISTED = 4  # classes in a repr
_KEYPOINTS = ("keypoints", "keypoints_scores")


class Detections(dict[str, np.ndarray]):
    """The detections of one image, best first: arrays by name, each with a row a detection.

    ``found["boxes"]`` and so on are the arrays; ``found[mask]``, ``found[:5]`` and ``found[3]`` are
    the detections of those rows; ``len(found)`` counts detections, not arrays.

    Args:
        arrays: ``boxes`` (D, 4) float32 xyxy in pixels of the image given, ``scores`` (D,) float32,
            ``labels`` (D,) int32 in 1..C-1, and perhaps ``masks``, ``keypoints`` and
            ``keypoints_scores``.
        class_names: by label, the background's first. Default: none are known.
        size: (height, width) of the image given. Default: unknown.
        image: the image, as it was given, for :meth:`draw` and notebooks; an array is not kept
            alive by it. Default: none.
        style: of drawing, such as ``{"skeleton": pairs}``. Default: none.

    Attributes:
        frame: of a video, the :class:`~mlx_rcnn.inputs.video.Frame` they were found in, else
            ``None``.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        class_names: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        image: object = None,
        style: SkeletonStyle | None = None,
    ) -> None:
        super().__init__(arrays)
        self.class_names = None if class_names is None else tuple(class_names)
        self.size = size
        self.style: SkeletonStyle = {**style} if style else {}
        self._image = _kept(image)
        self.frame: Frame | None = None

    @property
    def names(self) -> list[str]:
        """The class of each detection; ``"class 7"`` where names are not known."""
        known = self.class_names
        return [known[i] if known else f"class {i}" for i in self["labels"].tolist()]

    def __len__(self) -> int:
        return len(self["scores"]) if "scores" in self else 0

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: Rows) -> Self: ...

    def __getitem__(self, key: str | Rows) -> np.ndarray | Self:
        if isinstance(key, str):
            if key not in self:
                raise KeyError(
                    f"{key!r}: the detections have {', '.join(self)}{nearest(key, self)}"
                )
            return super().__getitem__(key)
        rows = self._rows(key)
        taken = {name: array[rows] for name, array in self.items()}
        part = type(self)(taken, self.class_names, self.size, None, self.style)
        part._image, part.frame = self._image, self.frame
        return part

    def _rows(self, key: Rows) -> list[int] | slice | np.ndarray:
        """What a key of detections selects in an array."""
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                raise IndexError(f"detection {key}: there are {len(self)}")
            return [int(key)]
        if isinstance(key, slice):
            return key
        rows = np.asarray(key)
        if rows.size == 0 and rows.dtype != bool:
            rows = rows.astype(np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "biu":
            raise TypeError(
                f"detections by {type(key).__name__}: expected a name, a number, a slice, a mask "
                f"({len(self)},) or numbers of rows"
            )
        if rows.dtype == bool and len(rows) != len(self):
            raise IndexError(f"mask of {len(rows)}: expected one value of each of {len(self)}")
        return rows

    def __repr__(self) -> str:
        if not len(self):
            return f"{type(self).__name__}(none)"
        counts = Counter(self.names).most_common()
        listed = ", ".join(f"{count} {name}" for name, count in counts[:_LISTED])
        more = ", ..." if len(counts) > _LISTED else ""
        best = float(self["scores"].max())
        others = [
            name for name in self if name not in ("boxes", "scores", "labels", *_KEYPOINTS[1:])
        ]
        also = f"; {', '.join(others)}" if others else ""
        return f"{type(self).__name__}({len(self)}: {listed}{more}; best {best:.2f}{also})"

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        given = self._image if isinstance(self._image, str | Path) else None
        return type(self), (dict(self), self.class_names, self.size, given, self.style)

    def _repr_png_(self) -> bytes | None:
        """For notebooks: the picture, while the image is there."""
        if self.image is None:
            return None
        file = io.BytesIO()
        self.draw().save(file, "PNG")
        return file.getvalue()

    @property
    def image(self) -> Given | None:
        """The image as it was given; ``None`` once an array is gone, or if it is not known."""
        if self.frame is not None:
            return self.frame.image
        kept = self._image() if isinstance(self._image, weakref.ref) else self._image
        return cast("Given | None", kept)

    def draw(self, image: Given | None = None, **options: Unpack[DrawOptions]) -> Image.Image:
        """A picture with the detections on it.

        Args:
            image: that was predicted on. Default: the one given, while it is there.
            **options: of :func:`~mlx_rcnn.draw_detections`, such as ``score_thresh``.

        Returns:
            A new RGB image.

        Raises:
            ValueError: no image; options or arrays that do not fit.
        """
        from .draw import draw_detections  # its fonts are not needed to predict

        style: DrawOptions = {**self.style, **options}
        return draw_detections(self._given(image), self, self.class_names, **style)

    def crops(self, image: Given | None = None) -> list[np.ndarray]:
        """The part of the image in each box.

        Args:
            image: as for :meth:`draw`.

        Returns:
            D arrays (h, w, 3) uint8, boxes rounded outwards to whole pixels, at least one.

        Raises:
            ValueError: no image.
        """
        pixels = load_image(self._given(image))
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        height, width = pixels.shape[:2]
        cut = []
        for x1, y1, x2, y2 in self["boxes"].tolist():
            left, top = (
                int(np.clip(np.floor(v), 0, n - 1)) for v, n in ((x1, width), (y1, height))
            )
            right, bottom = (int(np.clip(np.ceil(v), 1, n)) for v, n in ((x2, width), (y2, height)))
            cut.append(pixels[top : max(bottom, top + 1), left : max(right, left + 1)].copy())
        return cut

    def to_coco(self, image_id: int | str = 0) -> list[Entry]:
        """Entries of a COCO results file.

        Args:
            image_id: of the image. Default: ``0``.

        Returns:
            D dicts with ``image_id``, ``category_id`` (the label), ``bbox`` [x, y, width, height]
            in pixels, ``score``, for masks ``segmentation``, compressed RLE, and for keypoints
            ``keypoints``, x, y and visibility of each in one list of 3 * K numbers, and
            ``keypoints_scores``, which COCO's format lacks.

        Raises:
            ValueError: masks that were not pasted into the image (``masks="raw"``).
        """
        self._check_pasted("COCO results")
        return coco_results(self, image_id)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``: ``x1, y1, x2, y2, score, label, name`` of each detection.

        Raises:
            ImportError: pandas is not installed; how to is said.
        """
        pandas = _needed("pandas", "pandas")
        columns = dict(zip(("x1", "y1", "x2", "y2"), self["boxes"].T, strict=True))
        rest = {"score": self["scores"], "label": self["labels"], "name": self.names}
        return pandas.DataFrame({**columns, **rest})

    def to_supervision(self) -> Any:
        """``supervision.Detections``: boxes, scores, labels, names as ``class_name``, masks.

        Raises:
            ImportError: supervision is not installed; how to is said.
            ValueError: as :meth:`to_coco`.
        """
        supervision = _needed("supervision", "supervision")
        self._check_pasted("supervision")
        return supervision.Detections(
            xyxy=self["boxes"],
            mask=self.get("masks"),
            confidence=self["scores"],
            class_id=self["labels"].astype(int),
            data={"class_name": np.array(self.names)},
        )

    def to_fiftyone(self) -> Any:
        """``fiftyone.Detections``: boxes as shares of the image, masks cut to them.

        Raises:
            ImportError: fiftyone is not installed; how to is said.
            ValueError: the size of the image is not known; as :meth:`to_coco`.
        """
        fiftyone = _needed("fiftyone", "fiftyone")
        self._check_pasted("fiftyone")
        if self.size is None:
            raise ValueError("the size of the image is not known: expected a result of predict")
        height, width = self.size
        entries = []
        for i, (x1, y1, x2, y2) in enumerate(self["boxes"].tolist()):
            box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
            more = {}
            if "masks" in self:
                rows = slice(int(y1), max(round(y2), int(y1) + 1))
                more["mask"] = self["masks"][i][rows, int(x1) : max(round(x2), int(x1) + 1)]
            score = float(self["scores"][i])
            label = self.names[i]
            entries.append(
                fiftyone.Detection(label=label, bounding_box=box, confidence=score, **more)
            )
        return fiftyone.Detections(detections=entries)

    def _given(self, image: Given | None) -> Given:
        image = self.image if image is None else image
        if image is None:
            raise ValueError("the image is not known any more: give it, as in draw(image)")
        return image

    def _check_pasted(self, what: str) -> None:
        masks = self.get("masks")
        if masks is not None and masks.dtype != bool:
            raise ValueError(
                f"{what}: the masks are raw, {masks.shape[1]} x {masks.shape[2]} of each box; "
                'expected those of predict(masks="full")'
            )


def _kept(image: object) -> object:
    """A path as it is, an array or picture weakly: results must not keep images alive."""
    if image is None or isinstance(image, str | Path | weakref.ref):
        return image
    try:
        return weakref.ref(image)
    except TypeError:
        return None


def _needed(module: str, package: str) -> ModuleType:
    """An optional library, or how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{package} is not installed: pip install {package}") from error
