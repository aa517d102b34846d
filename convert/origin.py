"""Where converted weights come from, so that the way back is exact.

A model keeps what its own weights do not say: the library, and of the checkpoint's keys those that
were dropped (with their values) or are spelled otherwise than the library writes them today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_rcnn.messages import listing

from .files.safe_values import describe
from .rename import Renamed, Rule, source_key

_MOST_DROPPED = 4096  # numbers of one array: counters and buffers, never weights
_DTYPES = (
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)


@dataclass(frozen=True)
class Origin:
    """What to keep of a checkpoint beside its renamed weights; every value is JSON's."""

    library: str  # a key of ``LIBRARIES``
    file: str  # the checkpoint's name
    dropped: Mapping[str, Mapping[str, object]]  # dtype -> key -> nested lists of numbers
    # the key as the library writes it today -> the checkpoint's, where they differ
    spelling: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """As it stands in config.json."""
        return asdict(self)

    def restore(self, state: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """A state dict with the checkpoint's spelling and what it had besides, or ValueError."""
        if lost := [key for key in self.spelling if key not in state]:
            raise ValueError(f"no weights for {listing(lost)}, which {self.file} had")
        return {self.spelling.get(key, key): v for key, v in state.items()} | self.buffers()

    def buffers(self) -> dict[str, mx.array]:
        """The dropped arrays by the checkpoint's keys."""
        return {
            key: _array(value, dtype)
            for dtype, values in self.dropped.items()
            for key, value in values.items()
        }


def _array(value: object, dtype: str) -> mx.array:
    numbers = np.array(value)  # MLX takes no list with an integer of 64 bits
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, got {describe(value)}")
    if dtype == "bfloat16":
        return mx.array(numbers.astype(np.float32)).astype(mx.bfloat16)
    return mx.array(numbers.astype(dtype))


def make_origin(
    library: str,
    file: str,
    state: Mapping[str, mx.array],
    renamed: Renamed,
    rules: Sequence[Rule],
) -> Origin:
    """What to keep of a checkpoint, with ``renamed`` what ``rules`` made of it."""
    dropped: dict[str, dict[str, object]] = {}
    for key in renamed.dropped:
        value = state[key]
        if value.size > _MOST_DROPPED:  # too large to be a counter or a buffer
            raise ValueError(
                f"{key!r} has shape {value.shape}: expected at most {_MOST_DROPPED} numbers in "
                "what is not used"
            )
        dtype = str(value.dtype).removeprefix("mlx.core.").removesuffix("_")
        dropped.setdefault(dtype, {})[key] = value.tolist()
    today = {key: source_key(ours, rules)[0] for ours, key in renamed.origin.items()}
    spelling = {new: key for key, new in today.items() if new is not None and new != key}
    return Origin(library, file, dropped, spelling)


def from_json(value: Any) -> Origin | None:
    """What :meth:`Origin.to_json` gave, checked; ``None`` if nothing was kept."""
    if value is None:
        return None
    try:
        origin = Origin(**value)
        ok = isinstance(origin.library, str) and isinstance(origin.file, str)
        ok = ok and all(isinstance(key, str) for key in origin.spelling.values())
        if not ok or not set(origin.dropped) <= set(_DTYPES):
            raise ValueError("its parts have the wrong types")
        origin.buffers()
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"origin is no record of a checkpoint: {error}") from error
    return origin
