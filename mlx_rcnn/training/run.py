"""One run of training: epochs of steps, evaluation, checkpoints, and a record of all of it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import mlx.core as mx

from ..data import TrainBatch
from ..data.protocols import SizedDataset
from ..evaluation.table import Scores
from ..memory import bounded_cache, training_cache
from ..models import Detector
from ..progress import Bar, bar, say
from .checkpoint import (
    BEST,
    LAST,
    Progress,
    averaged,
    best_metric,
    load_checkpoint,
    read_progress,
)
from .checkpoint import save_checkpoint as write_checkpoint
from .config import TrainConfig
from .fit_memory import measured
from .interrupt import Stop, interruptions
from .loading import batches_of, make_loader
from .lock import locked
from .loggers import Loggers, RunStart
from .machines import number_of_first, share_from_first
from .metrics import (
    SAMPLES_FOLDER,
    Evaluate,
    Metrics,
    Summary,
    check_metric,
    coco_evaluation,
    coco_names,
    deciding_score,
    draw_curves,
    epochs_without_better,
    metric_of,
)
from .new_heads import check_keypoints, keypoints_of, predictors, what_is_new
from .nonfinite import NONFINITE, not_finite
from .optimizer import make_optimizer
from .pictures import contact_sheet
from .prepare import prepare_model
from .run_folder import check_folder, check_resume, clear_folder, describe_data
from .schedule import rate_of
from .step import StepResult, TrainStep
from .summary import SummaryPage

Speed = dict[str, float]
"""Of an epoch: seconds, images a second, share of the time waited for images; or nothing."""


class Trainer:
    """One run; see :func:`fit`, which describes the arguments."""

    def __init__(
        self,
        model: Detector,
        train_set: SizedDataset,
        val_set: SizedDataset | None,
        config: TrainConfig,
        folder: Path,
        evaluate: Evaluate | None = None,
        loggers: Loggers | None = None,
    ):
        self.model, self.train_set, self.val_set = model, train_set, val_set
        self.config, self.folder, self.loggers = config, folder, loggers or Loggers()
        self.group = mx.distributed.init()
        self.first = self.group.rank() == 0
        self.keypoints = keypoints_of(train_set) if model.needs_keypoints else None
        self.data = describe_data(train_set, self.group, self.keypoints)
        self.evaluate = evaluate
        if evaluate is None and val_set is not None:
            check_metric(config.metric, coco_names(model))
            self.evaluate = coco_evaluation(lambda: self.config.images, config.max_unreadable)
            if self.evaluate is None:
                self._say("no evaluation: pip install 'mlx-rcnn[eval]' gives COCO metrics")
        if config.patience and self.evaluate is None:
            raise ValueError(
                f"patience={config.patience}: no epoch is evaluated; expected validation data "
                "(val_fraction has it drawn), and mlx-rcnn[eval] installed"
            )
        self.step, self.best = 0, None  # type: int, float | None
        self.scores: Scores = {}
        self.interrupted = False

    def run(self, resume: bool = False, overwrite: bool = False) -> Summary:
        """Train to the end, or until stopped."""
        if self.first:
            check_folder(self.folder, resume, overwrite)
        check_keypoints(self.model, self.keypoints, self.val_set, self.config.hflip > 0)
        # What the checkpoint says must hold before anything is built from this run's settings.
        progress = read_progress(self.folder) if resume and self.first else None
        if progress is not None:
            names = self.train_set.class_names
            self.config = check_resume(progress, names, self.config, self.data)
        before = predictors(self.model)
        loaded = (self.model.source or self.model.class_names) and progress is None
        config = prepare_model(self.model, self.train_set.class_names, self.config, self.keypoints)
        if loaded:
            self._say(what_is_new(self.model, before))
        config = self.config = measured(self.model, self.train_set, config, self.group)
        self.loader = make_loader(self.train_set, config, self.group)
        self.steps = len(self.loader) // config.accumulate  # an epoch
        if not self.steps:
            raise ValueError(
                f"{len(self.train_set)} images make no step: expected at least batch_size "
                f"{config.images} x accumulate {config.accumulate} x machines "
                f"{self.group.size()}"
            )
        self.take = TrainStep(self.model, make_optimizer(self.model, config), config, self.group)
        mx.reset_peak_memory()
        if progress is not None:
            self.step = load_checkpoint(self.folder, self.take).step
            self.best = best_metric(self.folder)
        self.step = share_from_first(self.take, self.step)
        with self._held(), bounded_cache(training_cache(config.cache_limit)):
            return self._run(progress, resume, overwrite)

    def _held(self) -> AbstractContextManager[None]:
        if not self.first:
            return nullcontext()
        self.folder.mkdir(parents=True, exist_ok=True)
        return locked(self.folder)

    def _run(self, progress: Progress | None, resume: bool, overwrite: bool) -> Summary:
        if self.first:
            check_folder(self.folder, resume, overwrite)  # another may have begun meanwhile
            if progress is None:
                clear_folder(self.folder)
            self.metrics = Metrics(self.folder, self.step)
            if progress is None:  # from now on there is something to resume from
                self._save(LAST)
        if self.val_set is None:
            self._say("nothing is validated: no validation data, and no val_fraction")
        with interruptions() as stop, closing(self.loggers):
            if self.first:
                if "summary" in self.config.log:
                    self.loggers.add(SummaryPage(self.model, self.train_set, self.val_set))
                lines = self.metrics.lines()
                self.loggers.start(RunStart(self.folder, asdict(self.config), lines))
            self._epochs(stop)
        self.model.eval()
        peak = mx.get_peak_memory()
        self._say(f"peak memory {peak / 1e9:.2f} GB")
        epoch = self.step // self.steps
        return Summary(self.step, epoch, self.best, self.scores, self.interrupted, peak)

    def _epochs(self, stop: Stop) -> None:
        total = self.steps * self.config.epochs
        with bar(
            total=total, initial=self.step, unit="step", disable=not self.first, smoothing=0.05
        ) as shown:
            # An epoch whose steps are done may still lack its evaluation.
            for epoch in range(max(self.step - 1, 0) // self.steps, self.config.epochs):
                record = self._train(epoch, stop, shown)
                if self.interrupted:
                    if self.first:
                        self._save(LAST)
                        say(f"stopped at step {self.step}, saved")
                    return
                if self.first and not self.metrics.evaluated(epoch + 1):
                    if record:
                        self._save(LAST)
                    try:
                        self._finish(epoch, record)
                    except KeyboardInterrupt:  # a second Ctrl-C; the checkpoint is there
                        self.interrupted = True
                        return
                if self._no_better():
                    return
                if stop.asked and self.group.size() == 1 and epoch + 1 < self.config.epochs:
                    self.interrupted = True
                    return

    def _train(self, epoch: int, stop: Stop, bar: Bar) -> Speed:
        """The steps of an epoch that are still to be done; returns what its record holds."""
        config, began, waited, images = self.config, time.perf_counter(), 0.0, 0
        total = self.steps * config.epochs
        end = (epoch + 1) * self.steps
        if self.step >= end:
            return {}
        start = (self.step - epoch * self.steps) * config.accumulate
        with closing(batches_of(self.loader, epoch, start)) as batches:
            while self.step < end:
                asked = time.perf_counter()
                chosen = list(islice(batches, config.accumulate))
                ready = time.perf_counter()
                waited += ready - asked
                rate = rate_of(config, self.step, total)
                result = self._take_step(chosen, rate, stop)
                count = sum(len(b.images) for b in chosen) * self.group.size()
                images += count
                speed = count / (time.perf_counter() - asked)
                if self.first:
                    self._record_step(epoch, result, rate, speed, bar)
                if result.stop:
                    self.interrupted = True
                    break
                every = config.checkpoint_steps
                if self.first and every and self.step % every == 0 and self.step < end:
                    self._save(LAST)
        seconds = time.perf_counter() - began
        return {
            "seconds": round(seconds, 3),
            "images_per_s": round(images / seconds, 3),
            "waiting": round(waited / seconds, 4),
        }

    def _take_step(self, batches: list[TrainBatch], rate: float, stop: Stop) -> StepResult:
        try:
            result = self.take(batches, self.step, rate, stop.asked)
        except ValueError as error:  # of a target: get_loss knows its place in the batch only
            names = ", ".join(name for batch in batches for name in batch.names)
            raise ValueError(f"{error} (images of the step: {names})") from error
        if not result.finite:
            path = self._save(NONFINITE) if self.first else None
            raise not_finite(self.step, batches, result, self.folder, path)
        self.step += 1
        return result

    def _record_step(
        self, epoch: int, result: StepResult, rate: float, speed: float, bar: Bar
    ) -> None:
        losses = {k: round(v, 6) for k, v in result.losses.items()}
        line = {"lr": rate, "norm": round(result.norm, 4), "images_per_s": round(speed, 2)}
        place = {"kind": "step", "step": self.step, "epoch": epoch + 1}
        self.loggers.log(self.metrics.add({**place, **losses, **line}))
        shown = {k.removesuffix("_loss"): f"{v:.3f}" for k, v in result.losses.items()}
        memory = mx.get_peak_memory() / 1e9
        bar.set_description(f"epoch {epoch + 1}/{self.config.epochs}", refresh=False)
        bar.set_postfix(shown, refresh=False, images_s=f"{speed:.1f}", GB=f"{memory:.1f}")
        bar.update()

    def _finish(self, epoch: int, record: Speed) -> None:
        """Evaluate, keep the best, and draw."""
        line = {"kind": "epoch", "step": self.step, "epoch": epoch + 1, **record}
        line["peak_memory"] = mx.get_peak_memory()
        if self.val_set is not None:
            with averaged(self.take) as model:
                if self.evaluate is not None:
                    self.scores = line["metrics"] = self.evaluate(model, self.val_set)
                sheet = self.folder / SAMPLES_FOLDER / f"epoch-{epoch + 1:03d}.png"
                contact_sheet(model, self.val_set, self.train_set.class_names, sheet)
        name, score = self._score(self.scores)
        if self.best is None or (score is not None and score > self.best):
            self.best = score
            self._save(BEST)
        self.loggers.log(self.metrics.add(line))
        if not draw_curves(self.metrics) and epoch == 0:
            self._say("no curves.png: pip install 'mlx-rcnn[plots]' draws it")
        shown = "" if score is None else f", {name} {score:.4f} (best {self.best:.4f})"
        self._say(f"epoch {epoch + 1}: {record.get('images_per_s', 0):.1f} images/s{shown}")

    def _no_better(self) -> bool:
        """Whether ``patience`` is over, by the record: a resumed run waits no longer."""
        if not (patience := self.config.patience):
            return False
        waited = 0
        if self.first:
            scores = [self._score(line.get("metrics") or {})[1] for line in self.metrics.epochs()]
            waited = epochs_without_better(scores)
        if number_of_first(self.group, waited) < patience:
            return False
        self._say(f"stopped: no better in {patience} epoch{'s' if patience > 1 else ''}")
        return True

    def _score(self, scores: Scores) -> tuple[str, float | None]:
        return deciding_score(scores, self.config.metric, metric_of(self.model))

    def _save(self, name: str) -> Path:
        progress = Progress(
            self.step,
            self.step // self.steps,
            self.best,
            asdict(self.config),
            list(self.train_set.class_names),
            self.data,
        )
        return write_checkpoint(self.folder, self.take, progress, name)

    def _say(self, text: str) -> None:
        if self.first:
            say(text)
