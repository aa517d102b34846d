"""``mlx_rcnn evaluate``: the images predicted, by one machine or by several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...config.boxes import BoxConfig
from ...data import DetectionDataset
from ...evaluation import Collected, collect
from ...evaluation.batches import LeftOut, predictor
from ...evaluation.collect import assemble
from ...messages import one_line
from ..errors import CommandError
from ..proposals import check_no_search
from ..said import say_problem
from ..sharing.first_machine import First, Rest
from ..sharing.other_machine import Other
from ..sharing.share_images import Work

if TYPE_CHECKING:
    from ...models import Detector, TestTimeAugment

_SCORE_THRESH = 0.05


class Images:
    """The images of a data set, predicted by a model, with its classes."""

    def __init__(
        self,
        args: argparse.Namespace,
        team: First | Other,
        model: Detector,
        dataset: DetectionDataset,
        augment: TestTimeAugment | None,
    ) -> None:
        self._args, self._team, self._model, self._dataset = args, team, model, dataset
        if len(dataset) == 0:
            raise CommandError("the dataset has no images", 1)
        self._predict = predictor(model, dataset, least_score(args, model), augment)
        self._work: Work | None = None

    def help_first(self) -> int:
        """Predict what the first machine asks for."""
        try:
            self._begin(None).run(self._batch, lambda *_: None)
        except (OSError, ValueError) as error:
            raise CommandError(one_line(error), 1) from error
        return 0

    def collect(self, kept: Path) -> Collected:
        """Predict all images; ``kept`` is the file that the results will have."""
        named = self._args.json is not None and self._args.json.file is not None
        work = self._begin(kept if named or self._team.size > 1 else None)
        if not named:
            work.hint = f"--json {kept} --resume"
        left_out = LeftOut(len(self._dataset), self._args.max_unreadable)
        try:
            for found in work.found():  # earlier
                left_out.add(found)
            work.run(self._batch, lambda found, _: left_out.add(found), "evaluate")
            if work.missing():
                raise CommandError(work.end(), 1)
            objects = getattr(self._model, "finds_objects", False)
            collected = assemble(work.found(), self._dataset, objects)
        except KeyboardInterrupt as error:
            lacking = work.end()
            if work.lost:
                raise CommandError(lacking, 1) from error
            if work.file is not None:
                say_problem(lacking)
            raise
        except (OSError, ValueError) as error:  # an image that is damaged further down
            raise CommandError(one_line(error), 1) from error
        collected.seconds = work.seconds()
        return collected

    def written(self) -> None:
        """The results are on the disk: what was kept until then is not needed."""
        if self._work is not None:
            self._work.end()

    def _begin(self, results: Path | None) -> Work:
        paths = [item.path for item in self._dataset.items]
        self._work = Work(
            self._args, self._team, paths, self._model, results, self._args.batch_size
        )
        return self._work

    def _batch(self, chosen: range) -> Rest:
        found = self._predict(chosen)
        return lambda: (found, [])


def collect_alone(
    args: argparse.Namespace,
    model: Detector,
    dataset: DetectionDataset,
    augment: TestTimeAugment | None,
) -> Collected:
    """Predict all images on this machine, keeping nothing of a run that ends early."""
    try:
        return collect(
            model,
            dataset,
            batch_size=args.batch_size,
            score_thresh=least_score(args, model),
            progress=len(dataset) > 1,
            max_unreadable=args.max_unreadable,
            augment=augment,
        )
    except (OSError, ValueError) as error:  # an image that is damaged further down
        raise CommandError(one_line(error), 1) from error


def least_score(args: argparse.Namespace, model: Detector) -> float | Sequence[float]:
    """Detections that score less are left out."""
    least: float | Sequence[float] = _SCORE_THRESH
    if args.score_thresh is not None:
        least = args.score_thresh
    elif "box_score_thresh" in dict(args.settings or ()) and isinstance(model.config, BoxConfig):
        least = model.config.box_score_thresh
    return least


def check_several(args: argparse.Namespace) -> None:
    """Refuse what one machine does alone."""
    if args.predictions:
        raise CommandError("--predictions are scored by one machine: leave mlx.launch out")
    check_no_search(args)
