"""``mlx_rcnn data stats``: what is in a data set, and whether a model's anchors fit it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...config.backbone import ResNetFPNConfig
from ...config.detector import FasterRCNNConfig
from ...config.proposals import ProposingConfig
from ...data.anchors import AnchorFit, AnchorShapes, fit_anchors, measure, object_sizes
from ...data.dataset import DetectionDataset
from ...data.report import report
from ...files import replacing
from ...messages import one_line
from ...rpn.anchors import anchor_generator
from ..errors import CommandError, load_model
from ..flags.common import model_settings
from ..preflight import check_writable, make_folders
from .command import open_splits

if TYPE_CHECKING:
    from ...config.network import DetectorConfig

_LEVELS = 5  # of a pyramid, as torchvision's and detectron2's
_SHARES = (0, 5, 25, 50, 75, 95, 100)
_BETTER = 0.005  # of mean IoU; less is not worth new anchors


@dataclass(frozen=True)
class _Objects:
    """Boxes of all splits: in pixels of the images, and of the network input."""

    counts: dict[str, int]
    image: np.ndarray
    network: np.ndarray


def run(args: argparse.Namespace) -> int:
    """Print and draw the numbers."""
    check_writable(Path(args.out).parent)
    if args.json is not None:
        args.json.check()
    parts = open_splits(args, False, masks="kept", keypoints=None)
    config = _config(args)
    for split, part in parts.items():
        print(f"{split or args.path}: {part.format}")
        print(report(part))
    found, now, fitted = _objects(parts, config), None, None
    if not len(found.image):
        print("no objects: nothing to fit anchors to")
        return _written(args, parts, found, now, fitted)
    print("\n".join(_sizes(found)))
    if isinstance(config, ProposingConfig):
        levels = _levels(config)
        sizes = tuple(sorted({size for level in levels for size in level}))
        now = measure(found.network, AnchorShapes(sizes, config.aspect_ratios))
        fitted = fit_anchors(found.network, now.shapes)
        print("\n".join(_advice(config, levels, now, fitted)))
    if not _draw(Path(args.out), found, now, fitted):
        print('for a picture of this: pip install "mlx-rcnn[plots]"')
    return _written(args, parts, found, now, fitted)


def _written(
    args: argparse.Namespace,
    parts: dict[str | None, DetectionDataset],
    found: _Objects,
    now: AnchorFit | None,
    fitted: AnchorFit | None,
) -> int:
    """Write ``--json``, if it was asked for; the exit code, 0."""
    if args.json is not None:
        splits = [
            {"split": split, "format": part.format, **asdict(report(part))}
            | {"defects": [defect._asdict() for defect in part.defects]}
            for split, part in parts.items()
        ]
        boxes = {
            name: dict(zip(map(str, _SHARES), np.percentile(values, _SHARES).tolist(), strict=True))
            for name, values in _measures(found)
            if len(values)
        }
        fits = {"now": now and asdict(now), "fitted": fitted and asdict(fitted)}
        content = {"data": args.path, "splits": splits, "percentiles": boxes, "anchors": fits}
        args.json.write_content(content)
    return 0


def _config(args: argparse.Namespace) -> DetectorConfig:
    given = model_settings(args)
    if args.model is not None:
        return load_model(args.model, given=given).config
    own = {name: value for name, value in given.items() if name not in ("state", "style")}
    try:
        make: Callable[..., FasterRCNNConfig] = FasterRCNNConfig  # its rules check the values
        return make(ResNetFPNConfig(50, 0), 256, 2, **{"use_fpn": True, **own})
    except (TypeError, ValueError) as error:
        raise CommandError(f"--set: {one_line(error)}") from error


def _objects(parts: dict[str | None, DetectionDataset], config: DetectorConfig) -> _Objects:
    counts: dict[str, int] = {}
    image, network = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for part in parts.values():
        network.append(object_sizes(part, config))
        for name, count in report(part).objects.items():
            counts[name] = counts.get(name, 0) + count
        for i in range(len(part)):
            target = part.target(i)
            boxes = target["boxes"][target["iscrowd"] == 0].astype(np.float64)
            image.append(boxes[:, 2:] - boxes[:, :2])
    return _Objects(counts, np.concatenate(image), np.concatenate(network))


def _measures(found: _Objects) -> tuple[tuple[str, np.ndarray], ...]:
    """Of each object, by name."""
    wide, high = found.network.T
    return (
        ("side, image", np.sqrt(found.image.prod(axis=1))),
        ("side, input", np.sqrt(found.network.prod(axis=1))),
        ("width, input", wide),
        ("height, input", high),
        ("height / width", high / wide),
    )


def _sizes(found: _Objects) -> list[str]:
    """Percentiles of sizes and shapes."""
    lines = [
        "boxes: sides (square roots of areas) in pixels of the image and of the network input",
        f"  {'percentile':<15}" + "".join(f"{share:>8}" for share in _SHARES),
    ]
    for name, values in _measures(found):
        cells = "".join(f"{value:>8.4g}" for value in np.percentile(values, _SHARES))
        lines.append(f"  {name:<15}{cells}")
    return lines


def _levels(config: ProposingConfig) -> list[tuple[float, ...]]:
    """Anchor sizes of each level."""
    anchors = anchor_generator(config)
    sizes = config.anchor_sizes or ()
    nested = any(isinstance(size, tuple) for size in sizes)
    count = len(sizes) if nested else (_LEVELS if config.use_fpn else 1)
    return [anchors.level_sizes(level) for level in range(count)]


def _advice(
    config: ProposingConfig, levels: list[tuple[float, ...]], now: AnchorFit, fitted: AnchorFit
) -> list[str]:
    lines = [
        "anchors (shapes alone: best IoU of each box with one of the same centre)",
        f"  {'':<8}{'recall at 0.5':>14}{'mean IoU':>10}  sizes; height / width",
        _row("now", now),
    ]
    if fitted.mean - now.mean < _BETTER:
        return [*lines, "  none that fit better by more than half a point: keep these"]
    lines.append(_row("fitted", fitted))
    # One size or more a level, small ones on the finest; or all on each, as now.
    per_level = len(set(levels)) > 1
    sizes, text = list(fitted.shapes.sizes), ""
    if per_level:
        for level in levels:
            row, sizes = sizes[: len(level)], sizes[len(level) :]
            text += f"({','.join(f'{v:g}' for v in row)},),"
        text = text[:-1]
    else:
        text = ",".join(f"{v:g}" for v in sizes)
    flags = f"--set 'anchor_sizes={text}'"
    if fitted.shapes.ratios != tuple(config.aspect_ratios):
        flags += f" --set aspect_ratios={','.join(f'{v:g}' for v in fitted.shapes.ratios)}"
    return [*lines, f"  to train with them: {flags}"]


def _row(name: str, fit: AnchorFit) -> str:
    sizes = " ".join(f"{v:g}" for v in fit.shapes.sizes)
    ratios = " ".join(f"{v:g}" for v in fit.shapes.ratios)
    return f"  {name:<8}{fit.recall:>14.3f}{fit.mean:>10.3f}  {sizes}; {ratios}"


def _draw(path: Path, found: _Objects, now: AnchorFit | None, fitted: AnchorFit | None) -> bool:
    """Draw classes, sizes and shapes; ``False`` without matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    figure = import_module("matplotlib.figure").Figure(figsize=(15, 4.5), layout="constrained")
    classes, sizes, shapes = figure.subplots(1, 3)
    common = sorted(found.counts.items(), key=lambda pair: pair[1])[-30:]
    classes.barh([name for name, _ in common], [count for _, count in common])
    classes.set(title="objects", xscale="log" if _spread(found.counts) else "linear")
    sizes.hist(np.sqrt(found.network.prod(axis=1)), bins=60)
    sizes.set(title="side in the network input", xlabel="pixels")
    some = found.network[:: max(len(found.network) // 5000, 1)]
    shapes.scatter(*some.T, s=3, alpha=0.3, label="objects")
    for name, fit, marker in (("anchors", now, "x"), ("fitted", fitted, "+")):
        if fit is not None:
            shapes.scatter(*fit.shapes.boxes().T, s=60, marker=marker, label=name)
    shapes.set(title="shapes", xlabel="width", ylabel="height", xscale="log", yscale="log")
    shapes.legend()
    make_folders([path.parent])
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=100)
    print(f"picture: {path}")
    return True


def _spread(counts: dict[str, int]) -> bool:
    """Whether counts differ so much that a linear axis hides the small ones."""
    some = [count for count in counts.values() if count]
    return max(some) > 50 * min(some)
