"""The one thread that computes: it loads the model, and predicts in batches what waits.

MLX's streams belong to a thread, so arrays are made, evaluated and read in this one alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

import mlx.core as mx
import numpy as np

from ..inputs.image_files import load_image_bytes
from ..inputs.pixels import ImageError
from ..inputs.transform import resized_size
from ..memory import bounded_cache
from .limits import Limits, RequestError

if TYPE_CHECKING:
    from ..models import Detector
    from ..outputs.detections import Detections

# Pillow's readers that start no other program and know their files by their first bytes; that of
# JPEG reads MPO, too.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
Answer = TypeVar("Answer")
_MOST_PATIENCE = 60  # seconds, the longest Retry-After


class Options(NamedTuple):
    """Of ``predict``; ``None`` is the model's own. ``masks`` only of a model that has them."""

    score_thresh: float | None = None
    top_k: int | None = None
    masks: str | None = None


class Found(NamedTuple):
    """An image (H, W, 3), what was found in it, and by whom."""

    image: np.ndarray
    prediction: Detections
    model: Detector


@dataclass
class Job(Generic[Answer]):
    """One image file to predict."""

    data: bytes
    options: Options
    # makes of what is found what the request wants; runs in the worker's thread
    finish: Callable[[Found], Answer]
    answer: Future[Answer] = field(default_factory=Future)  # cancelled, the job is passed over


AnyJob: TypeAlias = Job[Any]


class Worker:
    """Predicts jobs in the order they come, several at once."""

    model: Detector  # once it is loaded

    def __init__(self, load: Callable[[], Detector], limits: Limits, name: str) -> None:
        # ``load`` runs in the worker's thread, and fails as it likes
        self.load, self.limits, self.name = load, limits, name
        self.answered = 0
        self._jobs: deque[AnyJob] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._begun = 0
        self._seconds = 0.1  # an image, as of late
        self._loaded: Future[Detector] = Future()
        self._thread = threading.Thread(target=self._run, name="mlx_rcnn worker", daemon=True)

    def start(self) -> Detector:
        """Load the model, wait for that and give it, for settings alone, not to compute with."""
        self._thread.start()
        return self._loaded.result()  # raises whatever ``load`` does

    def submit(self, job: Job[Answer]) -> Future[Answer]:
        """Queue a job; its answer may be cancelled. A RequestError if the server is stopping."""
        with self._changed:
            if self._stopping:
                raise RequestError(503, "the server is stopping")
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    @property
    def unanswered(self) -> int:
        """Jobs that wait or are computed."""
        return len(self._jobs) + self._begun

    @property
    def alive(self) -> bool:
        """Whether anybody is there to compute."""
        return self._thread.is_alive()

    def retry_after(self) -> int:
        """Whole seconds until what waits now should be done, at least 1."""
        return min(max(ceil(self._seconds * (len(self._jobs) + 1)), 1), _MOST_PATIENCE)

    def stop(self, drop: bool = False) -> None:
        """Answer what is queued, take no more, and end."""
        with self._changed:
            self._stopping = True
            if drop:  # what nobody has begun stays without an answer
                self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.model = self.load()
        except BaseException as error:
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(self.model)
            with bounded_cache():
                self._work()
        finally:
            # Else the process aborts at its end, now and then (ml-explore/mlx, pull request 4110).
            mx.clear_streams()

    def _work(self) -> None:
        while jobs := self._take():
            began = time.monotonic()
            self._predict(jobs)
            self.answered += len(jobs)
            # Half of it is the past, so that one slow image does not scare all away.
            self._seconds += ((time.monotonic() - began) / len(jobs) - self._seconds) / 2

    def _take(self) -> list[AnyJob]:
        """The next jobs whose clients are still there; none once the worker is to end."""
        with self._changed:
            while True:
                jobs: list[AnyJob] = []
                while self._jobs and len(jobs) < self.limits.batch_size:
                    job = self._jobs.popleft()
                    if job.answer.set_running_or_notify_cancel():
                        jobs.append(job)
                self._begun = len(jobs)
                if jobs or self._stopping:
                    return jobs
                self._changed.wait()

    def _predict(self, jobs: Sequence[AnyJob]) -> None:
        """Decode them, and predict those together that a list given to ``predict`` pads alike."""
        # So each result is that of its image alone, up to the rounding of a batch.
        groups: dict[
            tuple[Options, tuple[int, int], np.dtype], list[tuple[AnyJob, np.ndarray]]
        ] = {}
        for job in jobs:
            try:
                image = load_image_bytes(job.data, formats=FORMATS)
            except (ImageError, MemoryError) as error:
                job.answer.set_exception(RequestError(422, str(error) or "the image is too large"))
                continue
            key = job.options, self._padded(image), image.dtype
            groups.setdefault(key, []).append((job, image))
        for (options, _, _), group in groups.items():
            self._predict_group(group, options)

    def _padded(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) of the network input."""
        config = self.model.config
        height, width = resized_size(image.shape[0], image.shape[1], config)
        step = config.size_divisible
        return -(-height // step) * step, -(-width // step) * step

    def _predict_group(self, group: Sequence[tuple[AnyJob, np.ndarray]], options: Options) -> None:
        given = {name: value for name, value in options._asdict().items() if value is not None}
        try:
            found = self.model.predict([image for _, image in group], **given)
        except Exception as error:
            if len(group) > 1:  # whose fault it is shows alone
                for pair in group:
                    self._predict_group([pair], options)
            else:
                group[0][0].answer.set_exception(error)
            return
        for (job, image), prediction in zip(group, found, strict=True):
            try:
                job.answer.set_result(job.finish(Found(image, prediction, self.model)))
            except Exception as error:  # told to the one who asked; the thread goes on
                job.answer.set_exception(error)
