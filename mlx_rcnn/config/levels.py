"""Which values of a picture of more than 8 bits are black and white."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "0.1%:99.9%"


@dataclass(frozen=True)
class Levels:
    """Two values, or two percentiles of each picture."""

    low: float  # it, and what is below, is black
    high: float  # it, and what is above, is white
    percent: bool = False  # whether they are percentiles, 0 to 100


def read_levels(text: str) -> Levels:
    """Levels as a user writes them: ``200:3000``, percentiles ``1%:99%``, or ``auto``."""
    parts = (AUTO if text == "auto" else text).split(":")
    percent = [part.endswith("%") for part in parts]
    try:
        low, high = (float(part.removesuffix("%")) for part in parts)
    except ValueError:
        low, high = 1.0, 0.0
    good = low < high and abs(low) < float("inf") and abs(high) < float("inf")
    if not good or len(set(percent)) > 1 or (percent[0] and not 0 <= low < high <= 100):
        raise ValueError(
            f"{text!r} given, expected LOW:HIGH such as 200:3000, percentiles such as 1%:99%, or "
            "auto"
        )
    return Levels(low, high, percent[0])


@dataclass(frozen=True)
class LevelsRule:
    """``None``, or what :func:`read_levels` takes."""

    def check(self, config: object, name: str) -> None:
        """See :class:`~mlx_rcnn.config.checks.Rule`."""
        value = getattr(config, name)
        if value is None:
            return
        if not isinstance(value, str):
            raise TypeError(f"{name}={value!r}: expected a string such as '200:3000', or None")
        try:
            read_levels(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
