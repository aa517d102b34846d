"""What a training run is made of; every default of the trainer and of its flags stands here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, TypeVar

from ..messages import nearest

T = TypeVar("T")

CHOICES = {
    "schedule": ("step", "cosine"),
    "optimizer": ("sgd", "adamw"),
    "dtype": ("float32", "bfloat16"),  # float16 would need its losses scaled
    "log": ("summary", "csv", "tensorboard", "none"),
}
WORDS = {"batch_size": "auto"}
"""What a field may be besides a number."""
# Least and greatest value; None has no limit.
LIMITS: dict[str, tuple[float, float | None]] = {
    "epochs": (1, None),
    "batch_size": (1, None),
    "lr": (0, None),
    "warmup": (0, None),
    "drops": (0, 1),
    "drop_factor": (0, 1),
    "scale_jitter": (0, None),
    "momentum": (0, 1),
    "weight_decay": (0, None),
    "clip": (0, None),
    "accumulate": (1, None),
    "memory": (0, None),
    "ema": (0, 1),
    "size_divisible": (1, 1024),
    "freeze": (0, 6),
    "hflip": (0, 1),
    "vflip": (0, 1),
    "rotate90": (0, 1),
    "mosaic": (0, 1),
    "colour_jitter": (0, 1),
    "seed": (0, 2**32 - 1),
    "workers": (1, None),
    "checkpoint_steps": (0, None),
    "cache_limit": (0, None),
    "val_fraction": (0, 1),
    "patience": (0, None),
    "repeat_thresh": (0, 1),
    "max_unreadable": (0, 1),
}
MAY_CHANGE = (
    "workers",
    "recompute",
    "checkpoint_steps",
    "cache_limit",
    "epochs",
    "patience",
    "max_unreadable",
    "log",
)
"""Fields that a resumed run may change: no step depends on them but on ``epochs``, and a longer run
is what people ask for (its schedule is stretched from where the run stands)."""


def _field(default: T, text: str) -> T:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. Each field is described by its ``help``, and is a flag too.

    Raises:
        TypeError, ValueError: a field against its rule, naming what was given.
    """

    epochs: int = _field(12, "passes over the training images")
    batch_size: int | str = _field(
        2,
        "images in a step, on each machine; 'auto' measures how many fit the memory, and leaves lr "
        "as it is",
    )
    lr: float = _field(0.005, "learning rate after the warm-up")
    schedule: str = _field("step", "how the learning rate falls")
    drops: tuple[float, ...] = _field((0.75,), "where 'step' drops it, shares of the training")
    drop_factor: float = _field(0.1, "what 'step' multiplies it with at each drop")
    warmup: int = _field(100, "steps of linear warm-up")
    optimizer: str = _field("sgd", "what takes the steps")
    momentum: float = _field(0.9, "of SGD, and the first beta of AdamW")
    weight_decay: float = _field(1e-4, "of all parameters but norms and biases")
    clip: float = _field(35.0, "greatest norm of the whole gradient, 0 for no limit")
    accumulate: int = _field(1, "batches whose gradients are averaged into one step")
    recompute: bool = _field(
        False,
        "compute the backbone's stages again for the gradient in place of keeping what is inside "
        "them (activation checkpointing): less memory, more time, the same numbers",
    )
    fit_memory: bool = _field(
        False,
        "measure what a step takes, and where it is too much accumulate more and smaller batches, "
        "of as many images together, or recompute",
    )
    memory: float = _field(
        0.0, "GB that a step may take, of fit_memory and batch_size auto, 0: 70 % of the machine's"
    )
    ema: float = _field(0.0, "decay of the averaged weights that are evaluated and saved, 0: none")
    dtype: str = _field("float32", "precision of the network's pass; weights stay float32")
    min_size: tuple[int, ...] | None = _field(
        None, "short side in pixels, several to draw from (default: the model's)"
    )
    size_divisible: int = _field(
        64, "padded sides are multiples of it: few sizes, whose memory is used again"
    )
    freeze: int | None = _field(
        None,
        "backbone stages that do not learn, from the stem, 0 to 5 of a ResNet, VGG or AlexNet, to "
        "6 of a MobileNetV3 (default: all but 3, or 0 for an untrained model)",
    )
    hflip: float = _field(0.5, "chance that an image is mirrored")
    vflip: float = _field(0.0, "chance that an image is turned upside down")
    rotate90: float = _field(0.0, "chance that an image is turned by 90, 180 or 270 degrees")
    scale_jitter: tuple[float, ...] | None = _field(
        None,
        "LOW,HIGH: scale an image by a factor between, then crop or fill it to its own size "
        "(default: none; 0.1,2 is large-scale jitter)",
    )
    mosaic: float = _field(
        0.0,
        "chance that an image is put together with three others, a quarter each; not in the last "
        "tenth of the epochs",
    )
    colour_jitter: float = _field(
        0.0, "strength of random brightness, contrast, saturation and hue; 1 is SSD's"
    )
    seed: int = _field(0, "of the new weights, the order, the augmentation and the sampling")
    deterministic: bool = _field(
        False,
        "on a GPU, sum RoIAlign's gradient in a fixed order: slower, and equal from run to run; a "
        "CPU always does",
    )
    workers: int = _field(2, "threads that load images")
    checkpoint_steps: int = _field(0, "steps between checkpoints, 0 for one an epoch")
    cache_limit: float | None = _field(
        None, "GB of freed memory that MLX may keep (default: 2 on a GPU, 0.25 on a CPU)"
    )
    metric: str | None = _field(
        None,
        "decides which checkpoint is the best, such as AP50 (default: keypoints_AP for a "
        "Keypoint R-CNN, segm_AP for a Mask R-CNN, else AP)",
    )
    patience: int = _field(
        0, "epochs in a row without a better metric that end the run, 0: none do"
    )
    repeat_thresh: float = _field(
        0.0,
        "share of the images: those of a class with fewer come up sqrt(repeat_thresh / its share) "
        "times an epoch, LVIS's repeat factor, 0: never",
    )
    val_fraction: float = _field(
        0.0, "share of the training images, drawn by the seed, that is kept for validation"
    )
    keypoint_pairs: tuple[str, ...] | None = _field(
        None, "LEFT:RIGHT,...: names of keypoints that a mirror swaps (default: told by the names)"
    )
    max_unreadable: float = _field(
        0.1, "share of images that turn out unreadable, rounded up, that does not stop the run"
    )
    log: tuple[str, ...] = _field(
        ("summary",),
        "what is written of the run beside metrics.jsonl, several separated by commas: summary (a "
        "page, summary.html), csv (metrics.csv), tensorboard; or none",
    )

    def __post_init__(self) -> None:
        for name in ("drops", "min_size", "scale_jitter", "keypoint_pairs", "log"):
            value = getattr(self, name)
            if isinstance(value, list | int | float | str) and not isinstance(value, bool):
                value = tuple(value) if isinstance(value, list) else (value,)
                object.__setattr__(self, name, value)
        for item in fields(self):
            self._check(item.name, getattr(self, item.name), _kind(item))
        if self.fit_memory and self.batch_size == "auto":
            raise ValueError("batch_size='auto': expected a number, which fit_memory keeps")

    @property
    def images(self) -> int:
        """``batch_size`` once it is a number.

        Raises:
            ValueError: it is still to be measured.
        """
        if isinstance(self.batch_size, str):
            raise ValueError(f"batch_size={self.batch_size!r}: expected to be measured by now")
        return self.batch_size

    def _check(self, name: str, value: object, kind: str) -> None:
        if value is None and kind.endswith("| None"):
            return
        values = value if kind.startswith("tuple") else (value,)
        if not isinstance(values, tuple) or not values:
            raise TypeError(f"{name}={value!r}: expected one number or more")
        for item in values:
            _check_item(name, item, kind)
        if name == "scale_jitter" and (len(values) != 2 or not 0 < values[0] <= values[1]):
            raise ValueError(f"scale_jitter={value!r}: expected two factors, 0 < low <= high")
        if name == "val_fraction" and value == 1:
            raise ValueError("val_fraction=1: expected a share below 1")
        if name == "log" and "none" in values and len(values) > 1:
            raise ValueError(f"log={','.join(values)}: expected none, or what is written")
        if name == "ema" and value == 1:
            raise ValueError("ema=1: expected a number below 1, as the average would never move")


def _check_item(name: str, item: object, kind: str) -> None:
    if name in WORDS and item == WORDS[name]:
        return
    if kind == "bool":
        if not isinstance(item, bool):
            raise TypeError(f"{name}={item!r}: expected True or False")
    elif "str" in kind and name not in WORDS:
        _check_text(name, item)
    else:
        _check_number(name, item, whole="int" in kind)


def _check_text(name: str, item: object) -> None:
    if name in CHOICES:
        if item not in CHOICES[name]:
            allowed = CHOICES[name]
            raise ValueError(f"{name}={item!r}: expected one of {allowed}{nearest(item, allowed)}")
    elif not isinstance(item, str) or not item:
        raise TypeError(f"{name}={item!r}: expected a name")


def _check_number(name: str, item: object, whole: bool) -> None:
    low, high = LIMITS.get(name, (1, None))
    if isinstance(item, bool) or not isinstance(item, int if whole else int | float):
        expected = "a whole number" if whole else "a number"
        expected += f" or {WORDS[name]!r}" if name in WORDS else ""
        raise TypeError(f"{name}={item!r}: expected {expected}")
    if not math.isfinite(item) or item < low or (high is not None and item > high):
        rule = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ValueError(f"{name}={item!r}: expected a number {rule}")


def _kind(item: Field[object]) -> str:
    """A field's annotation, which this module keeps as text."""
    return str(item.type)


def from_json(content: Mapping[str, Any]) -> TrainConfig:
    """A config from what :func:`dataclasses.asdict` gave, lists for tuples."""
    known = [item.name for item in fields(TrainConfig)]
    for name in content:
        if name not in known:
            raise TypeError(f"TrainConfig has no field {name!r}{nearest(name, known)}")
    return TrainConfig(**content)


def changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields in which two configs differ, as ``name: old, now new``, for a resumed run."""
    before, after = asdict(old), asdict(new)
    return [
        f"{name}: {before[name]}, now {after[name]}"
        for name in before
        if before[name] != after[name] and name not in MAY_CHANGE
    ]


def flag(name: str) -> str:
    """The command line's name of a field: ``--batch-size`` of ``batch_size``."""
    return "--" + name.replace("_", "-")
