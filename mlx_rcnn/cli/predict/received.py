"""What ``predict`` makes of the images of a batch: their pictures at once, the rest at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from tqdm import tqdm

from ...outputs.coco import image_ids, write_results
from ...outputs.pictures import picture_paths, write_file
from ..errors import CommandError
from ..proposals import write
from ..sharing.first_machine import Found
from ..sharing.share_images import Work
from .report import Done
from .save import Saver

if TYPE_CHECKING:
    from ...models import Detector
    from ...structures import Entry, Json


class ImageFound(TypedDict, total=False):
    """What was found in an image, as it goes to the first machine and into the kept file."""

    proposed: dict[str, list[Json]]
    place: int
    size: tuple[int, int]
    entries: list[Entry]
    row: tuple[str, ...]
    crops: int


class Received:
    """Writes on the first machine what all of them give.

    Args:
        args: the parsed command line.
        paths: of all images.
        saver: of ``--save``.
        model: whose source a file of proposals names.
        results: the file.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        paths: Sequence[Path],
        saver: Saver,
        model: Detector,
        results: Path,
    ) -> None:
        self._paths, self.saver, self._model, self.results = paths, saver, model, results
        self._pictures = None if args.no_images else picture_paths(paths, Path(args.out))

    def batch(self, found: Found, files: list[bytes]) -> None:
        """Write the pictures and crops of a batch.

        Args:
            found: its ``images``, each with its ``place`` and ``entries``, and ``problems``, to
                which is added what cannot be written.
            files: of each image its picture, if they are wanted, and its crops.
        """
        for problem in found["problems"]:
            complain(problem)
        left = iter(files)
        for image in found["images"]:
            path = self._paths[image["place"]]
            if self._pictures is not None:
                target = self._pictures[image["place"]]
                try:
                    write_file(target, next(left))
                except OSError as error:
                    problem = f"cannot write {target}: {error.strerror or error}"
                    complain(problem)
                    found["problems"].append(problem)
            crops = [next(left) for _ in range(image.pop("crops"))]
            try:
                self.saver.write_crops(path, image["entries"], crops)
            except OSError as error:  # what else there is goes on
                problem = f"cannot write the crops of {path}: {error.strerror or error}"
                complain(problem)
                found["problems"].append(problem)

    def write(self, work: Work) -> Done:
        """Write the results of all images that are done, in their order.

        Args:
            work: that is done, or as far as it came.

        Returns:
            What there is to report.

        Raises:
            CommandError: it cannot be written.
        """
        ids = image_ids(self._paths)
        done = Done(model_seconds=work.seconds(), fresh=work.fresh, idle=work.idle())
        for found in work.found():
            done.failed += len(found["problems"])
            for image in found["images"]:
                i, entries = image["place"], image["entries"]
                done.entries += entries
                done.rows.append(tuple(image["row"]))
                self.saver.add(self._paths[i], ids[i], tuple(image["size"]), entries)
                if "proposed" in image:
                    boxes, scores = (np.array(image["proposed"][k], np.float32) for k in _PROPOSED)
                    prediction = {"boxes": boxes.reshape(-1, 4), "scores": scores}
                    done.proposed.append((self._paths[i], prediction))
        try:
            write_results(self.results, done.entries)
            if done.proposed:
                path = self.results.with_name("proposals.npz")
                write(path, done.proposed, str(self._model.source))
        except OSError as error:
            raise CommandError(f"cannot write {self.results}: {error.strerror}", 1) from error
        return done


_PROPOSED = ("boxes", "scores")


def proposed(prediction: Mapping[str, np.ndarray]) -> dict[str, list[Json]]:
    """What of a proposal network's prediction its file takes, as JSON holds it."""
    return {name: prediction[name].tolist() for name in _PROPOSED}


def complain(message: str) -> None:
    """Say what is wrong with an image, above the bar of progress."""
    tqdm.write(f"mlx_rcnn: {message}", file=sys.stderr)
