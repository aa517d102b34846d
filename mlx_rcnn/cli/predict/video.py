"""``mlx_rcnn predict`` on videos and cameras: an annotated video, JSON lines and CSV."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np

from ...files import replacing
from ...inputs.video import VIDEO_SUFFIXES, Video, load_av
from ...memory import bounded_cache
from ...messages import one_line
from ...models.stream import stream
from ...outputs.behind import Behind
from ...outputs.coco import coco_results
from ...outputs.detections import Detections
from ...outputs.pictures import picture_paths
from ...outputs.skeletons import skeleton_style
from ...outputs.video import VideoWriter
from ...progress import bar
from ..errors import CommandError
from ..said import say_problem
from .choice import SHOWN_SCORE, select

if TYPE_CHECKING:
    from ...models import Detector

COLUMNS = ("frame", "seconds", "label", "name", "score", "x1", "y1", "x2", "y2")


class _Rows(Protocol):
    """A writer of ``csv``, whose type has no public name."""

    def writerow(self, row: Iterable[object], /) -> object: ...


@dataclass
class _Written:
    """Of one video: how many frames and detections, and how long a frame took."""

    detections: int = 0
    stopped: bool = False
    truncated: str | None = None
    latencies: list[float] = field(default_factory=list)  # of each frame, seconds

    def __str__(self) -> str:
        text = f"{len(self.latencies)} frames, {self.detections} detections"
        if not self.latencies:
            return text
        half, most, nearly = np.percentile(self.latencies, [50, 90, 99]) * 1000
        return (
            f"{text}; from decoded to predicted a frame took {half:.0f} ms (p50), {most:.0f} ms "
            f"(p90), {nearly:.0f} ms (p99)"
        )


def video_sources(sources: list[str]) -> list[Path | int] | None:
    """The videos and cameras that the sources of ``predict`` stand for; ``None`` for images."""
    found: list[Path | int] = []
    others: list[str] = []
    for source in sources:
        path = Path(source)
        if source.isdecimal() and not path.exists():
            found.append(int(source))
        elif path.is_dir() and (clips := sorted(filter(_is_video, path.iterdir()))):
            found += clips
        elif _is_video(path):
            found.append(path)
        else:
            others.append(source)
    if found and others:
        raise CommandError(f"{others[0]} is no video: expected images or videos, not both")
    return found or None


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def check_video(args: argparse.Namespace, sources: list[Path | int]) -> None:
    """Refuse what cannot work with videos, before a model is loaded."""
    if args.json:
        raise CommandError("--json goes with images: videos get a .jsonl each in the --out folder")
    if args.resume:
        raise CommandError("--resume goes with images, not with videos")
    if getattr(args, "proposals", None):
        raise CommandError("--proposals goes with images, not with videos")
    try:
        load_av()
        for source in sources:
            if isinstance(source, Path):
                _opened(args, source).close()
    except (ImportError, OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error


def run_video(
    args: argparse.Namespace, model: Detector, classes: list[int] | None, sources: list[Path | int]
) -> int:
    """Predict each frame of each video; 1 if damage cut one short, 130 if interrupted."""
    named = [s if isinstance(s, Path) else Path(f"camera{s}.mp4") for s in sources]
    targets = picture_paths(named, Path(args.out))
    code = 0
    for source, target in zip(sources, targets, strict=True):
        try:
            done = _one(args, model, classes, source, target.with_suffix(".mp4"))
        except (OSError, ValueError) as error:
            raise CommandError(one_line(error), 1) from error
        name = f"camera {source}" if isinstance(source, int) else str(source)
        print(f"{name}: {done}")
        if done.truncated:
            say_problem(f"{name} ends early: {done.truncated}")
            code = 1
        if done.stopped:
            say_problem("interrupted")
            return 130
    print(f"results: {args.out}")
    return code


def _opened(args: argparse.Namespace, source: Path | int) -> Video:
    return Video(source, args.video_from, args.video_to, args.every)


def _one(
    args: argparse.Namespace,
    model: Detector,
    classes: list[int] | None,
    source: Path | int,
    target: Path,
) -> _Written:
    done = _Written()
    options = {"score_thresh": args.score_thresh, "nms_thresh": args.nms_thresh}
    with ExitStack() as stack:
        video = stack.enter_context(_opened(args, source))
        writer = None
        if not args.no_images:
            part = stack.enter_context(replacing(target))
            writer = stack.enter_context(VideoWriter(part, video))
        rows = stack.enter_context(_table(target.with_suffix(".csv")))
        lines = stack.enter_context(_text(target.with_suffix(".jsonl")))
        shown = stack.enter_context(bar(total=video.frames, unit="frame", desc=target.stem))
        stack.enter_context(bounded_cache())
        results = stream(model, video, batch_size=args.batch_size, top_k=args.top_k, **options)

        def keep(found: Detections) -> None:
            kept = select(found, classes, args.top_k)
            assert kept.frame is not None  # it is a video's
            _write(kept, rows, lines, done)
            if writer is not None:
                writer.write(_drawn(args, model, kept), kept.frame.seconds)
            shown.update()

        try:
            with Behind() as behind, closing(results):  # type: ignore[type-var]
                for found in results:
                    behind.put(partial(keep, found))
        except KeyboardInterrupt:  # what is done is worth a whole file
            done.stopped = True
        done.truncated = video.truncated
    return done


def _drawn(args: argparse.Namespace, model: Detector, found: Detections) -> np.ndarray:
    least = SHOWN_SCORE if args.score_thresh is None else args.score_thresh
    return np.array(found.draw(score_thresh=least, **skeleton_style(model)))


def _write(found: Detections, rows: _Rows, lines: TextIO, done: _Written) -> None:
    """One row a detection in both files."""
    frame = found.frame
    assert frame is not None
    seconds = round(frame.seconds, 6)
    entries = coco_results(found, frame.number)
    for entry, name, box in zip(entries, found.names, found["boxes"].tolist(), strict=True):
        rows.writerow(
            [
                frame.number,
                seconds,
                entry["category_id"],
                name,
                entry["score"],
                *(round(v, 4) for v in box),
            ]
        )
        entry = {"frame": frame.number, "seconds": seconds, "name": name, **entry}
        del entry["image_id"]
        lines.write(json.dumps(entry) + "\n")
    assert frame.latency is not None  # it is predicted
    done.latencies.append(frame.latency)
    done.detections += len(found)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _table(path: Path) -> Iterator[_Rows]:
    with _text(path) as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        yield rows
