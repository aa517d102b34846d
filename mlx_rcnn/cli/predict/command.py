"""``mlx_rcnn predict``: detections of image files as pictures, COCO results and a table."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ...inputs.images import find_images
from ...models import TestTimeAugment, Tiles
from ..errors import CommandError, load_model
from ..flags.common import model_settings
from ..flags.view import augmentation, check_augmentation, tiles_of
from ..json_file import JsonFile
from ..pages import page_paths
from ..preflight import check_writable, make_folders, set_device
from ..proposals import check_no_search, of_images
from ..said import say_problem
from ..sharing.first_machine import First
from ..sharing.machines import machines
from ..sharing.other_machine import Other
from ..sharing.share_images import Work
from .choice import class_labels
from .received import Received
from .report import report
from .save import Saver, check_room, chosen_kinds
from .steps import Steps, View
from .video import check_video, run_video, video_sources


def run(args: argparse.Namespace) -> int:
    """Predict on ``args.source`` and write what is found; 1 if an image was left out."""
    # All that can be wrong with the arguments is checked before the model is loaded. Under
    # ``mlx.launch`` machines share the images, and the first one writes. What was done is kept if
    # this is interrupted (130) or a machine is lost.
    with machines() as team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: First | Other) -> int:
    view, kinds = _view(args), chosen_kinds(args)
    videos = video_sources(args.source)
    if team.size > 1:
        _check_several(args, videos)
    if team.first and not args.resume:
        check_room(args, kinds)
    if videos is not None:
        return _on_videos(args, videos, view, kinds)
    paths = page_paths(args, _sources(args.source), kinds)
    results = _results_file(args, paths, team)
    folders = _folders(args, results, kinds) if team.first else []
    set_device(args.device)
    model = load_model(args.model, args.dtype, model_settings(args))
    if isinstance(view, TestTimeAugment):
        check_augmentation(model, view)
    classes = class_labels(args.classes, model) if args.classes is not None else None
    make_folders(folders)
    given = of_images(args, model, paths)
    saver = Saver(args, kinds, model)
    size = 1 if isinstance(view, Tiles) else args.batch_size  # tiles are batches of their own
    work = Work(args, team, paths, model, results.file, size)
    received = Received(args, paths, saver, model, results)
    steps = Steps(args, model, view, classes, paths, given, saver)
    if not team.first:
        work.run(steps, received.batch)
        return 0
    _go_on(args, work, kinds)
    with received.printed():
        return _whole(args, work, steps, received)


def _go_on(args: argparse.Namespace, work: Work, kinds: tuple[str, ...]) -> None:
    """With ``--resume``: check what is there, and say again what was wrong."""
    if work.file is not None and args.resume:
        check_room(args, kinds, work.file)
        for found in work.found():
            for problem in found["problems"]:
                say_problem(problem)


def _whole(args: argparse.Namespace, work: Work, steps: Steps, received: Received) -> int:
    """Predict, and write all that is found, or what there is if it ends early."""
    interrupted = False
    began = time.perf_counter()
    try:
        with steps.ahead(work.order()):
            work.run(steps, received.batch)
    except KeyboardInterrupt:
        interrupted = not work.lost
        if interrupted:
            say_problem("interrupted")
    finally:
        done = received.write(work)
    saved = received.saver.write()
    report(args, done, received.results, time.perf_counter() - began)
    print("\n".join(saved), end="\n" * bool(saved))
    lacking = work.end(received.saver.formats)
    if lacking and work.lost:
        raise CommandError(lacking, 1)
    if lacking and work.fresh:
        say_problem(lacking)
    return 130 if interrupted else 1 if done.failed else 0


def _check_several(args: argparse.Namespace, videos: list[Path | int] | None) -> None:
    """Refuse what one machine does alone."""
    if videos is not None:
        raise CommandError("videos and cameras are predicted by one machine: leave mlx.launch out")
    if "-" in args.source:
        raise CommandError("SOURCE - has no end under mlx.launch: name the images or their folder")
    check_no_search(args)


def _view(args: argparse.Namespace) -> View:
    """How the command line wants images seen."""
    augment, tiles = augmentation(args), tiles_of(args)
    if augment is not None and tiles is not None:
        raise CommandError("--tile and --tta-sizes or --tta-flip: expected one of them")
    return augment or tiles


def _folders(args: argparse.Namespace, results: JsonFile, kinds: tuple[str, ...]) -> list[Path]:
    """Those that files go to; all can be written to."""
    found = [] if results.file is None else [results.file.parent]
    found += [] if args.no_images and not kinds else [Path(args.out)]
    for folder in found:
        check_writable(folder)
    return found


def _results_file(args: argparse.Namespace, paths: list[Path], team: First | Other) -> JsonFile:
    """Where the results of images go; no folder, and no image."""
    results: JsonFile = args.json or JsonFile(str(Path(args.out) / "detections.json"))
    if team.first:
        results.check()
    if results.file is None:
        if args.resume:
            raise CommandError("--resume goes with --json FILE, beside which what is done is kept")
    elif results.file.resolve() in [path.resolve() for path in paths]:
        raise CommandError(f"--json {results} is one of the images: expected another file")
    return results


def _on_videos(
    args: argparse.Namespace, videos: list[Path | int], view: View, kinds: tuple[str, ...]
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
