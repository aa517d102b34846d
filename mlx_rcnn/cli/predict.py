"""``mlx_rcnn predict``: detections of image files as pictures, COCO results and a table."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..inputs.images import ImageError, find_images
from ..memory import bounded_cache
from ..models import ProposalNetwork, TestTimeAugment, Tiles, predict_tiled
from ..outputs.coco import image_ids, mask_option, results_of, write_results
from ..outputs.draw import draw_detections, readable_scale
from ..outputs.pictures import picture_paths, write_picture
from ..outputs.skeletons import skeleton_style
from ..tables import display_width, pad
from .errors import CommandError, load_model
from .flags import model_settings
from .pages import load_source, page_paths
from .predict_choice import SHOWN_SCORE, class_labels, select
from .predict_save import Saver, chosen_kinds
from .predict_video import check_video, run_video, video_sources
from .preflight import check_writable, make_folders, set_device
from .proposals import of_images, write
from .view_flags import augmentation, check_augmentation, tiles_of

_ROWS_SHOWN = 30
_CLASSES_SHOWN = 3


@dataclass
class _Done:
    """What a run has produced so far."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    proposed: list[tuple[Path, dict[str, np.ndarray]]] = field(default_factory=list)
    failed: int = 0
    model_seconds: float = 0.0


def run(args: argparse.Namespace) -> int:
    """Predict on ``args.source`` and write what is found.

    All that can be wrong with the arguments is checked before the model is loaded.

    Args:
        args: the parsed command line.

    Returns:
        The exit code: 0, 1 if an image was left out, 130 if interrupted (what was done is kept).

    Raises:
        CommandError: an argument that cannot work, or results that cannot be written.
    """
    view, kinds = _view(args), chosen_kinds(args)
    videos = video_sources(args.source)
    if videos is not None:
        return _on_videos(args, videos, view, kinds)
    paths = page_paths(args, _sources(args.source), kinds)
    results = _results_file(args, paths)
    folders = [results.parent] if args.no_images and not kinds else [results.parent, Path(args.out)]
    for folder in folders:
        check_writable(folder)
    set_device(args.device)
    model = load_model(args.model, args.dtype, model_settings(args))
    if isinstance(view, TestTimeAugment):
        check_augmentation(model, view)
    classes = class_labels(args.classes, model) if args.classes is not None else None
    make_folders(folders)
    given = of_images(args, model, paths)
    saver = Saver(args, kinds, model)

    done, code = _Done(), 0
    began = time.perf_counter()
    try:
        _predict(args, model, view, classes, paths, given, saver, done)
    except KeyboardInterrupt:
        print("mlx_rcnn: interrupted", file=sys.stderr)
        code = 130
    finally:
        try:
            write_results(results, done.entries)
            if done.proposed:
                write(results.with_name("proposals.npz"), done.proposed, str(model.source))
        except OSError as error:
            raise CommandError(f"cannot write {results}: {error.strerror}", 1) from error
    saved = saver.write()
    _report(args, done, results, time.perf_counter() - began)
    print("\n".join(saved), end="\n" * bool(saved))
    return code or (1 if done.failed else 0)


def _view(args: argparse.Namespace) -> Any:
    """Several views of an image, or its tiles; ``None`` for the image as it is."""
    augment, tiles = augmentation(args), tiles_of(args)
    if augment is not None and tiles is not None:
        raise CommandError("--tile and --tta-sizes or --tta-flip: expected one of them")
    return augment or tiles


def _results_file(args: argparse.Namespace, paths: list[Path]) -> Path:
    """Where the results of images go; no folder, and no image."""
    results = Path(args.json) if args.json else Path(args.out) / "detections.json"
    if results.is_dir():
        raise CommandError(f"--json {results} is a folder: expected a file")
    if results.resolve() in [path.resolve() for path in paths]:
        raise CommandError(f"--json {results} is one of the images: expected another file")
    return results


def _on_videos(
    args: argparse.Namespace, videos: list[Path | int], view: Any, kinds: tuple[str, ...]
) -> int:
    """As :func:`run`, frame by frame."""
    if view is not None:
        raise CommandError("--tta-sizes, --tta-flip and --tile go with images, not with videos")
    if kinds:
        raise CommandError("--save goes with images: of videos there are rows and lines always")
    check_video(args, videos)
    check_writable(Path(args.out))
    set_device(args.device)
    model = load_model(args.model, args.dtype, model_settings(args))
    classes = class_labels(args.classes, model) if args.classes is not None else None
    make_folders([Path(args.out)])
    return run_video(args, model, classes, videos)


def _predict(
    args: argparse.Namespace,
    model: Any,
    view: Any,
    classes: list[int] | None,
    paths: list[Path],
    given: dict[int, np.ndarray] | None,
    saver: Saver,
    done: _Done,
) -> None:
    tiled = isinstance(view, Tiles)
    ids = image_ids(paths)
    pictures = picture_paths(paths, Path(args.out))
    top_k = args.top_k
    if classes is not None and top_k is not None:
        # The cut comes after the choice of classes: other classes must not use it up.
        top_k = max(top_k, getattr(model.config, "box_detections_per_img", 0))
    # Without pictures masks become RLE one at a time: all of an image can be more than memory has.
    options: dict[str, Any] = mask_option(model) if args.no_images else {}
    if isinstance(view, TestTimeAugment):
        options["augment"] = view
    run_model = model.predict
    if tiled:
        run_model = partial(predict_tiled, model, tiles=view)
    with tqdm(total=len(paths), unit="image", disable=len(paths) < 2) as bar, bounded_cache():
        size = 1 if tiled else args.batch_size  # tiles are batches of their own
        for start in range(0, len(paths), size):
            chosen = range(len(paths))[start : start + size]
            batch = list(_readable(paths, chosen, (tiled, model.config.image_levels), done))
            if batch:
                began = time.perf_counter()
                boxes = () if given is None else ([given[i] for i, _ in batch],)
                try:
                    predictions = run_model(
                        [image for _, image in batch],
                        *boxes,
                        score_thresh=args.score_thresh,
                        nms_thresh=args.nms_thresh,
                        top_k=top_k,
                        **options,
                    )
                except (ImageError, OSError) as error:  # damage that only a window comes upon
                    _complain(str(error), done)
                    bar.update(len(chosen))
                    continue
                done.model_seconds += time.perf_counter() - began
                for (i, image), prediction in zip(batch, predictions, strict=True):
                    if isinstance(model, ProposalNetwork):
                        done.proposed.append((paths[i], prediction))
                    prediction = select(prediction, classes, args.top_k)
                    entries = results_of(model, prediction, ids[i], image)
                    done.entries += entries
                    _save(saver, paths[i], ids[i], image, entries, done)
                    done.rows.append(_row(args, paths[i], image, prediction, model.class_names))
                    if not args.no_images:
                        _write_picture(args, pictures[i], image, prediction, model, done)
            bar.update(len(chosen))


def _readable(
    paths: list[Path], chosen: Sequence[int], how: tuple[bool, str | None], done: _Done
) -> Iterator[tuple[int, Any]]:
    for i in chosen:
        try:
            yield i, load_source(paths[i], *how)
        except (OSError, ValueError, ImportError) as error:
            _complain(str(error), done)


def _complain(message: str, done: _Done) -> None:
    done.failed += 1
    tqdm.write(f"mlx_rcnn: {message}", file=sys.stderr)


def _save(
    saver: Saver, path: Path, image_id: int | str, image: Any, entries: Any, done: _Done
) -> None:
    try:
        saver.add(path, image_id, image, entries)
    except OSError as error:  # of a crop: what else there is goes on
        why = error.strerror or error
        _complain(f"cannot write the crops of {path}: {why}", done)


def _write_picture(
    args: argparse.Namespace,
    path: Path,
    image: np.ndarray,
    prediction: dict[str, np.ndarray],
    model: Any,
    done: _Done,
) -> None:
    picture = draw_detections(
        image,
        prediction,
        model.class_names,
        score_thresh=_shown_score(args),
        scale=readable_scale(image.shape[1], image.shape[0]),
        **skeleton_style(model),
    )
    try:
        write_picture(path, picture)
    except OSError as error:
        _complain(f"cannot write {path}: {error.strerror or error}", done)


def _shown_score(args: argparse.Namespace) -> float:
    return SHOWN_SCORE if args.score_thresh is None else args.score_thresh


def _row(
    args: argparse.Namespace,
    path: Path,
    image: np.ndarray,
    prediction: dict[str, np.ndarray],
    names: tuple[str, ...] | None,
) -> tuple[str, ...]:
    shown = prediction["labels"][prediction["scores"] >= _shown_score(args)].tolist()
    counts = Counter(shown).most_common()
    text = ", ".join(
        f"{names[label] if names else f'class {label}'} {count}"
        for label, count in counts[:_CLASSES_SHOWN]
    )
    more = ", ..." if len(counts) > _CLASSES_SHOWN else ""
    size = f"{image.shape[1]}x{image.shape[0]}"
    return str(path), size, str(len(prediction["labels"])), str(len(shown)), text + more


def _report(args: argparse.Namespace, done: _Done, results: Path, seconds: float) -> None:
    score = f"score >= {_shown_score(args):g}"
    table = [("image", "size", "detections", score, "classes"), *done.rows[:_ROWS_SHOWN]]
    if args.score_thresh is not None:  # then the two counts are the same
        table = [(*row[:3], row[4]) for row in table]
    widths = [max(map(display_width, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            pad(cell, width, right=head in ("size", "detections", score))
            for cell, width, head in zip(row, widths, table[0], strict=True)
        ]
        print("  ".join(cells).rstrip())
    count = len(done.rows)
    if count > _ROWS_SHOWN:
        print(f"... and {count - _ROWS_SHOWN} more")
    if count:
        print(
            f"\n{count} image{'s' * (count > 1)}, {len(done.entries)} detections; images per "
            f"second: {count / done.model_seconds:.2f} model, {count / seconds:.2f} in all"
        )
        if not args.no_images:
            print(f"pictures: {args.out} ({score})")
    print(f"results: {results}")
    if done.proposed:
        print(f"proposals: {results.with_name('proposals.npz')}")
    if done.failed:
        print(f"mlx_rcnn: {done.failed} failed, named above", file=sys.stderr)


def _sources(given: list[str]) -> list[Path]:
    sources: list[str] = []
    try:
        for source in given:
            if source == "-":
                lines = [line.rstrip("\r\n") for line in sys.stdin]
                sources += [line for line in lines if line]
            else:
                sources.append(source)
        if not sources:
            raise CommandError("no paths on standard input: expected one a line")
        return find_images(sources)
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
