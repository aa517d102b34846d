"""What ``predict`` makes of the images of a batch: their pictures at once, the rest at the end."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ...outputs.coco import image_ids, results_text
from ...outputs.pictures import picture_paths, write_file
from ...structures import Entry
from ..errors import CommandError
from ..json_file import JsonFile
from ..proposals import write
from ..said import say_problem
from ..sharing.first_machine import Found
from ..sharing.share_images import Work
from .report import Done
from .save import Saver

if TYPE_CHECKING:
    from ...models import Detector
    from ...structures import Json


class ImageFound(TypedDict, total=False):
    """What was found in an image, as it goes to the first machine and into the kept file."""

    proposed: dict[str, list[Json]]
    place: int
    size: tuple[int, int]
    entries: list[Entry]
    row: tuple[str, ...]
    crops: int


class Received:
    """Writes on the first machine what all of them give."""

    def __init__(
        self,
        args: argparse.Namespace,
        paths: Sequence[Path],
        saver: Saver,
        model: Detector,
        results: JsonFile,
    ) -> None:
        self._paths, self.saver, self._model, self.results = paths, saver, model, results
        self._out, self._entries = Path(args.out), list[Entry]()
        self._pictures = None if args.no_images else picture_paths(paths, Path(args.out))

    def batch(self, found: Found, files: list[bytes]) -> None:
        """Write a batch's pictures and crops; what cannot be written joins its ``problems``."""
        for problem in found["problems"]:
            say_problem(problem)
        left = iter(files)
        for image in found["images"]:
            path = self._paths[image["place"]]
            if self._pictures is not None:
                target = self._pictures[image["place"]]
                try:
                    write_file(target, next(left))
                except OSError as error:
                    problem = f"cannot write {target}: {error.strerror or error}"
                    say_problem(problem)
                    found["problems"].append(problem)
            crops = [next(left) for _ in range(image.pop("crops"))]
            try:
                self.saver.write_crops(path, image["entries"], crops)
            except OSError as error:  # what else there is goes on
                problem = f"cannot write the crops of {path}: {error.strerror or error}"
                say_problem(problem)
                found["problems"].append(problem)

    def write(self, work: Work) -> Done:
        """Write the results of all images that are done, in their order."""
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
        self._entries = done.entries
        if self.results.file is not None:
            self.results.write(results_text(done.entries))
        if done.proposed:
            folder = self._out if self.results.file is None else self.results.file.parent
            path = folder / "proposals.npz"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write(path, done.proposed, str(self._model.source))
            except OSError as error:
                raise CommandError(f"cannot write {path}: {error.strerror}", 1) from error
            done.proposals = path
        return done

    @contextmanager
    def printed(self) -> Iterator[None]:
        """Print the results at the end of the block, however it ends, if that is where they go."""
        try:
            yield
        finally:
            if self.results.file is None:
                self.results.write(results_text(self._entries))


_PROPOSED = ("boxes", "scores")


def proposed(prediction: Mapping[str, np.ndarray]) -> dict[str, list[Json]]:
    """What of a proposal network's prediction its file takes, as JSON holds it."""
    return {name: prediction[name].tolist() for name in _PROPOSED}
