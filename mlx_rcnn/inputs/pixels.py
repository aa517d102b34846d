"""Pixels of any mode, depth or library as (H, W, 3) arrays of bytes or of floats in [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .levels import levelled

# What rounding leaves outside [0, 1], after a resize in half precision at the most; half a step of
# 8 bits is 0.002.
_ROUNDING = 1e-3
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


class AnyArray(Protocol):
    """An array of any library: PyTorch's, a memory map, h5py's, zarr's."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sides."""

    @property
    def dtype(self) -> Any:
        """The library's own."""

    def __getitem__(self, window: tuple[slice, slice], /) -> object: ...


class ImageError(ValueError):
    """An image file or array that cannot be used; the message names it and what was expected."""


class DepthError(ImageError):
    """Values that no rule brings to 8 bits, unless levels are given."""


def check_image_array(array: AnyArray, name: str = "image array") -> np.ndarray:
    """Check one (H, W, 3) array of any library and give it as NumPy, uint8 or float32 in [0, 1]."""
    shape = tuple(array.shape)
    if len(shape) != 3 or shape[2] != 3:
        raise ImageError(f"{name} has shape {shape}: expected (H, W, 3){_shape_hint(shape)}")
    if 0 in shape:
        raise ImageError(f"{name} has shape {shape}: expected at least one pixel")
    # of NumPy, MLX, PyTorch (on any device, with or without gradients)
    pixels = _as_numpy(array, name)
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ImageError(
            f"{name} has dtype {pixels.dtype}: expected uint8 (0..255) or floats in [0, 1]"
        )
    return _unit_floats(pixels, name)  # floats outside [0, 1] by no more than 0.001 are clipped


def to_rgb(
    image: Image.Image, name: str, deep: bool = False, levels: str | None = None
) -> np.ndarray:
    """A PIL image as (H, W, 3) RGB, as ``Image.convert("RGB")`` has it; alpha is dropped."""
    if 0 in image.size:
        raise ImageError(f"{name} has size {image.size}: expected at least one pixel")
    mode = image.mode
    if levels is not None and (mode in ("I", "F") or mode.startswith("I;16")):
        values = np.asarray(image)
        _range(values, name)
        return _repeated(levelled(values, levels))
    if levels is not None and deep:
        raise ImageError(
            f"{name} has colours of 16 bits, of which their high byte alone is read: levels expect "
            "grey, or a TIFF read by windows (--tile)"
        )
    # Grey values of more than 8 bits, which Pillow would clip to white, are brought to 8 bits by
    # their largest: up to 255 they are taken as 8 bits, up to 4095 as 12, with a warning, for a
    # dark picture of 16 bits may look like them, up to 65535 as 16.
    if mode == "I" or mode.startswith("I;16"):
        return _repeated(_bytes_of(np.asarray(image).astype(np.int64), name))
    if mode == "F":
        # as they are in [0, 1], and beyond as whole numbers of 8, 12 or 16 bits
        return _repeated(_floats_of(np.asarray(image), name))
    if mode == "P" and "transparency" in image.info:
        image = image.copy()  # the same pixels, without Pillow's advice to convert to RGBA
        del image.info["transparency"]
    try:
        if mode in _PREMULTIPLIED:
            image = image.convert(_PREMULTIPLIED[mode])
        pixels = np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise ImageError(f"{name} has mode {mode}, which does not convert to RGB") from error
    # colours had 16 bits before Pillow cut them: few levels deserve a warning
    if deep and pixels.max() < 16:
        _warn(_black(name))
    return pixels


def reason(error: BaseException) -> str:
    """The message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _as_numpy(array: Any, name: str) -> np.ndarray:
    try:
        if callable(getattr(array, "detach", None)):  # PyTorch's, which is not imported for it
            array = array.detach().cpu()
            array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        elif type(array).__module__.startswith("mlx.") and str(array.dtype).endswith("bfloat16"):
            import mlx.core as mx

            array = array.astype(mx.float32)  # NumPy has no bfloat16
        pixels = np.asarray(array)
    # Other libraries' own errors: sparse arrays, devices that NumPy cannot read, ...
    except Exception as error:
        raise ImageError(f"{name} does not become a NumPy array: {reason(error)}") from error
    # JAX's bfloat16 is no floating type to NumPy.
    return pixels.astype(np.float32) if pixels.dtype.name == "bfloat16" else pixels


def _unit_floats(pixels: np.ndarray, name: str) -> np.ndarray:
    low, high = _range(pixels, name)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        if low < 0:
            cure = "undo the normalisation, which predict does itself"
        else:
            cure = "divide by 255 or pass uint8" if high <= 255 else "divide by the largest value"
        raise ImageError(
            f"{name} has floats from {low:g} to {high:g}: expected floats in [0, 1]; {cure}"
        )
    pixels = pixels.astype(np.float32, copy=False)
    return np.clip(pixels, 0, 1) if low < 0 or high > 1 else pixels


def _range(pixels: np.ndarray, name: str) -> tuple[float, float]:
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name} holds NaN or infinite pixels: expected finite floats in [0, 1]")
    return low, high


def _bits(name: str, low: float, high: float, kind: str) -> int:
    """How many bits grey values take, with a word where that is a guess."""
    if low < 0 or high > 65535:
        raise DepthError(
            f"{name} has {kind} from {low:.10g} to {high:.10g}: expected 8, 12 or 16 bits, 0 to "
            "65535, or floats in [0, 1]; scale the values, or say by levels which "
            "are black and white"
        )
    bits = 8 if high <= 255 else 12 if high <= 4095 else 16
    # All 0 is black at any depth, and 16 bits are what whole numbers are expected to have.
    if high > 0 and (bits < 16 or kind == "floats"):
        _warn(
            f"{name} has {kind} up to {high:g} only: taken as {bits} bits, 0 to {2**bits - 1}; "
            "if the picture is dark and has more, save it as 8 bits"
        )
    return bits


def depth_of(name: str, low: int, high: int, colours: bool = False) -> int:
    """How many bits, 8, 12 or 16, whole numbers from ``low`` to ``high`` are taken to have."""
    if colours and low >= 0 and high <= 65535:
        if high < 4096:
            _warn(_black(name))
        return 16  # those of RGB are never taken for fewer; few levels deserve a warning
    return _bits(name, low, high, "whole numbers")


def float_divisor(name: str, low: float, high: float) -> np.float32:
    """What floats from ``low`` to ``high`` are divided by to lie in [0, 1]; 1 if they do."""
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        return np.float32(2 ** _bits(name, low, high, "floats") - 1)
    return np.float32(1)


def _bytes_of(grey: np.ndarray, name: str) -> np.ndarray:
    bits = depth_of(name, int(grey.min()), int(grey.max()))
    return (grey >> (bits - 8)).astype(np.uint8)


def _floats_of(grey: np.ndarray, name: str) -> np.ndarray:
    divisor = float_divisor(name, *_range(grey, name))
    clipped: np.ndarray = np.clip(grey / divisor, 0, 1)
    return clipped.astype(np.float32, copy=False)


def _repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def _black(name: str) -> str:
    return (
        f"{name} has colours of 16 bits, but values below 4096 only, and comes out "
        "(nearly) black: expected values up to 65535; scale them, or save with 8 bits"
    )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        return ", channels last; this looks like channels first"
    if len(shape) == 3 and shape[2] == 4:
        return "; drop the alpha channel"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "; repeat the grey channel three times"
    if len(shape) == 4:
        return ", one image"
    return ""
