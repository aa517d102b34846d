"""The images of ``predict`` and ``evaluate``: in batches, shared by machines, kept when done."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...memory import bounded_cache
from ...outputs.behind import Behind
from ...progress import bar
from ..said import say_warning
from .first_machine import Common, First, Found, Rest, Result
from .other_machine import Other
from .unfinished import About, Unfinished, described, unfinished_paths

if TYPE_CHECKING:
    from ...models import Detector


class Work:
    """Images, some of which may be done already; with no file of ``results`` none are kept."""

    def __init__(
        self,
        args: argparse.Namespace,
        team: First | Other,
        images: Sequence[Path],
        model: Detector,
        results: Path | None,
        size: int,
    ) -> None:
        self.team, self.count, self._size = team, len(images), size
        self.images = [os.fspath(path) for path in images]
        self._batches = range(-(-self.count // self._size))
        several = len(self._batches) > 1 or team.size > 1 or args.resume
        about = described(args, self.images, model) if several else About({}, [], [])
        self._common: Common = {"images": about.images, "weights": about.weights}
        self.file = None
        if team.first and several and results is not None:
            self.file = Unfinished(results, about, args.resume)
            if not args.resume and unfinished_paths(results)[0].exists():
                path = unfinished_paths(results)[0]
                say_warning(f"an unfinished run is in {path}, and is begun again: --resume goes on")
        self._found: dict[int, Found] = dict(self.file.found) if self.file else {}
        self.hint = "--resume"  # what has the rest predicted
        self.fresh = 0  # images that are done now and were not before
        self._busy = self._took = 0.0  # seconds of the network, and of all

    def run(
        self,
        predict: Callable[[range], Rest],
        receive: Callable[[Found, list[bytes]], None],
        name: str | None = None,
    ) -> None:
        """Predict what is to do; on the first machine ``receive`` what it and the others give."""
        # What ``predict`` gives is left to do without the network: on the first machine a thread
        # does it, and all that follows, while the next batch is predicted.
        with bounded_cache():
            if isinstance(self.team, Other):
                self.team.work(self._common, lambda batch: predict(self._chosen(batch))())
                return
            self.team.begin(self._common)
            todo = self._todo()
            done = self.count - self._images_in(todo)
            began = time.perf_counter()
            with (
                bar(
                    total=self.count, initial=done, unit="image", desc=name, disable=self.count < 2
                ) as shown,
                Behind() as behind,
            ):

                def keep(batch: int, machine: int, rest: Rest | Result) -> None:
                    found, files = rest() if callable(rest) else rest
                    receive(found, files)
                    found["machine"] = machine
                    if self.file is not None:
                        self.file.add(batch, found)
                    self._found[batch] = found
                    self.fresh += len(found["images"])
                    self._busy += found["seconds"]
                    shown.update(len(self._chosen(batch)))

                try:
                    self.team.share(
                        todo,
                        lambda batch: predict(self._chosen(batch)),
                        lambda *done: behind.put(partial(keep, *done)),
                    )
                except KeyboardInterrupt:  # of a launcher, perhaps because another machine was lost
                    self.team.fate()
                    raise
            self._took = time.perf_counter() - began

    def order(self) -> list[range]:
        """The batches that will be asked for, in order; none where machines share them."""
        return [] if self.team.size > 1 else [self._chosen(batch) for batch in self._todo()]

    def idle(self) -> float | None:
        """The share of the time of :meth:`run` in which the network waited, if that was alone."""
        # ``None`` where machines share the images, or ``run`` did not come to its end.
        if self.team.size > 1 or not self._took:
            return None
        return max(1 - self._busy / self._took, 0.0)

    def found(self) -> Iterator[Found]:
        """What was found in each batch that is done, in the order of the images."""
        for batch in sorted(self._found):
            yield self._found[batch]

    def seconds(self) -> float:
        """That the models took: machines work at the same time, processes one after the other."""
        spent: dict[int, dict[int, float]] = {}
        for found in self._found.values():
            of = spent.setdefault(found.get("turn", 0), {})
            of[found["machine"]] = of.get(found["machine"], 0.0) + found["seconds"]
        return sum(max(of.values()) for of in spent.values())

    @property
    def lost(self) -> bool:
        """Whether a machine was lost."""
        return isinstance(self.team, First) and bool(self.team.lost)

    def missing(self) -> list[int]:
        """The images that are not done, by their place."""
        return [i for k in self._batches if k not in self._found for i in self._chosen(k)]

    def end(self, written: Sequence[str] = ()) -> str:
        """Remove the file of the unfinished run if nothing is missing, else say what is and why."""
        missing = self.missing()
        if not missing:
            if self.file is not None:
                self.file.finish()
            return ""
        reason = self.team.losses() if isinstance(self.team, First) else ""
        are = "images are" if self.count > 1 else "image is"
        text = f"{len(missing)} of {self.count} {are} missing"
        if self.file is not None and self._found:
            self.file.list_missing([self.images[i] for i in missing])
            # folders of ``--save`` that are written whatever is missing
            if written:
                self.file.note(written)
            text += f", listed in {self.file.missing}: {self.hint} predicts them"
        return f"{reason}; {text}" if reason else text

    def _todo(self) -> list[int]:
        return [batch for batch in self._batches if batch not in self._found]

    def _chosen(self, batch: int) -> range:
        return range(self.count)[batch * self._size : (batch + 1) * self._size]

    def _images_in(self, batches: Sequence[int]) -> int:
        return sum(len(self._chosen(batch)) for batch in batches)
