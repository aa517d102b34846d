"""The images of ``predict`` and ``evaluate``: in batches, shared by machines, kept when done."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ...memory import bounded_cache
from ...outputs.behind import Behind
from .first_machine import Common, First, Found, Rest, Result
from .other_machine import Other
from .unfinished import About, Unfinished, described, unfinished_paths

if TYPE_CHECKING:
    from ...models import Detector


class Work:
    """Images, some of which may be done already.

    Args:
        args: the parsed command line.
        team: the machines.
        images: their paths, in order.
        model: loaded.
        results: the file of results, beside which those of an unfinished run are kept. ``None``:
            they are not.
        size: images a batch.

    Raises:
        CommandError: ``resume``, and there is nothing to go on from, or it is of another run.
    """

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
                text = f"an unfinished run is in {path}, and is begun again: --resume goes on"
                print(f"mlx_rcnn: warning: {text}", file=sys.stderr)
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
        """Predict what is to do; on the first machine keep what it and the others give.

        Args:
            predict: images by their place; gives what is left to do without the network, which
                gives ``images``, a list of JSON, and files. On the first machine a thread does that
                while the next batch is predicted, and all that follows.
            receive: is given these on the first machine, before they are kept.
            name: before the bar of progress. Default: none.

        Raises:
            CommandError: see :class:`~mlx_rcnn.cli.first_machine.First`.
        """
        with bounded_cache():
            if isinstance(self.team, Other):
                self.team.work(self._common, lambda batch: predict(self._chosen(batch))())
                return
            self.team.begin(self._common)
            todo = self._todo()
            done = self.count - self._images_in(todo)
            began = time.perf_counter()
            with (
                tqdm(
                    total=self.count, initial=done, unit="image", desc=name, disable=self.count < 2
                ) as bar,
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
                    bar.update(len(self._chosen(batch)))

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
        """The share of the time of :meth:`run` in which the network of this machine waited.

        Returns:
            ``None`` where machines share the images, or :meth:`run` did not come to its end.
        """
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
        """Remove the file of the unfinished run if nothing is missing, else list what is.

        Args:
            written: folders of ``--save`` that are written whatever is missing. Default: none.

        Returns:
            A line of what is missing and why; empty if nothing is.
        """
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
