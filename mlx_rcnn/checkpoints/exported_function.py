"""Function files of MLX read back: what an app will run, tried in Python.

Format of the head, from MLX's ``export.cpp``: its version, how many traces there are, and the
metadata; texts are a length of 8 bytes and their characters. MLX itself does not compare the
version, and misreads a file of another format.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import mlx.core as mx
import numpy as np

from ..inputs.pixels import AnyArray, check_image_array
from ..messages import one_line
from ..models.traced import Outputs

SUFFIX = ".mlxfn"
FORMAT = "mlx_rcnn function 1"
MLX_VERSION: str = cast(Any, mx).__version__  # which MLX's stubs do not have
_LONGEST_VERSION, _LONGEST_METADATA = 64, 1 << 24
_TRACES = 5  # bytes between the two: how many, and whether of any shape

Size = tuple[int, int]


class ExportedFunction:
    """A detector read from a function file, as an app has it.

    Attributes:
        metadata: what is written beside the file.
    """

    def __init__(self, function: Any, metadata: dict[str, Any]):
        self._function, self.metadata = function, metadata

    @property
    def sizes(self) -> list[Size]:
        """(height, width) of the images it takes."""
        return [(height, width) for height, width in self.metadata["sizes"]]

    def outputs(self, image: AnyArray, content: Size | None = None) -> Outputs:
        """What the function gives: fixed shapes, and zeros where there is no detection.

        Args:
            image (H, W, 3): of one of :attr:`sizes`, uint8 or floats in [0, 1].
            content: (height, width) of the photo at the image's top left corner; what lies beyond
                is not looked at. Default: the whole image.

        Returns:
            By name: ``boxes`` (D, 4), ``scores``, ``labels`` and ``valid`` (D,), and what the
            model finds besides.

        Raises:
            ValueError: an image of another size, or content that is larger than it.
        """
        pixels = check_image_array(image)
        size = (pixels.shape[0], pixels.shape[1])
        if size not in self.sizes:
            raise ValueError(f"image of {by(size)} pixels: expected {_sizes(self.sizes)}")
        inner = size if content is None else (int(content[0]), int(content[1]))
        if not all(0 < part <= side for part, side in zip(inner, size, strict=True)):
            raise ValueError(f"content={content!r}: expected a part of the image of {by(size)}")
        found = self._function(mx.array(pixels), mx.array(inner, dtype=mx.int32))
        return dict(zip(self.metadata["outputs"], found, strict=True))

    def __call__(self, image: AnyArray, content: Size | None = None) -> dict[str, np.ndarray]:
        """The detections alone, as ``predict`` gives them.

        Args:
            image, content: as :meth:`outputs`.

        Returns:
            ``boxes`` (n, 4) in pixels of the image, ``scores`` and ``labels`` (n,), best first, and
            what the model finds besides; masks as they are, (n, 28, 28) probabilities.

        Raises:
            ValueError: as :meth:`outputs`.
        """
        found = {name: np.array(value) for name, value in self.outputs(image, content).items()}
        valid = found.pop("valid")
        return {name: value[valid] for name, value in found.items()}


def load_function(path: str | os.PathLike[str]) -> ExportedFunction:
    """Read a function file of :func:`export_function`, to try in Python what an app will run.

    Args:
        path: of it.

    Returns:
        The function.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
        ValueError: it is no function file of this package, another version of MLX wrote it, or it
            was made for a GPU and there is none.
    """
    path = Path(path)
    metadata = _metadata(path)
    if metadata["device"] == "gpu" and not mx.is_available(mx.Device(mx.gpu)):
        raise ValueError(f"{path} was exported for a GPU, and MLX has none on this machine")
    try:
        function = mx.import_function(str(path))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise ValueError(f"{path} is not a whole function file: {one_line(error)}") from error
    return ExportedFunction(function, metadata)


def beside(path: Path) -> Path:
    """The file of JSON that belongs to a function file."""
    return path.with_name(f"{path.name}.json")


def _metadata(path: Path) -> dict[str, Any]:
    """What :func:`load_function` has to know before MLX reads a file."""
    foreign = f"{path} is no function file of mlx_rcnn: expected one that mlx_rcnn export wrote"
    with path.open("rb") as file:
        version = _text(file, _LONGEST_VERSION)
        if version is None or not re.fullmatch(rb"\d+\.\d+[\w.+-]*", version):
            raise ValueError(foreign)
        if version.decode() != MLX_VERSION:
            raise ValueError(
                f"{path} was written by MLX {version.decode()}, and this is MLX {MLX_VERSION}: "
                "expected the same version, as MLX's format changes between them; export the "
                "model again"
            )
        file.read(_TRACES)
        text = _text(file, _LONGEST_METADATA)
    try:
        metadata = json.loads(text or b"")
    except ValueError:
        raise ValueError(foreign) from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(foreign)
    return metadata


def _text(file: IO[bytes], longest: int) -> bytes | None:
    """Characters after their number; ``None`` where they are cut off or too many to be meant."""
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if length <= longest else b""
    return text if len(text) == length else None


def by(size: Size) -> str:
    """A size as the command line has it."""
    return f"{size[0]}x{size[1]}"


def _sizes(sizes: Sequence[Size]) -> str:
    return " or ".join(map(by, sizes))
