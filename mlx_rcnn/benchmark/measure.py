"""A case measured by each library in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .cases import Case
from .worker import SELF

OURS, THEIRS = "mlx", "torch"


@dataclass
class Measured:
    """What a library took."""

    seconds: list[float] = field(default_factory=list)  # of each round
    peak: int = 0  # bytes in use at most
    waits: int | None = None  # how often MLX's host waited for the device in a round
    failed: str = ""  # why there is nothing, else empty

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)


def measure(case: Case, libraries: Sequence[str], rounds: int) -> dict[str, Measured]:
    """Run a case so many rounds by each library in turn, after a run that does not count."""
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        if case.kind == "start":
            return {library: _starts(library, case, weights, rounds) for library in libraries}
        return _turns(case, libraries, rounds, weights)


def describe_theirs() -> str:
    """Versions and device of torch, asked of another process, as importing it takes memory."""
    code = (
        "from mlx_rcnn.benchmark.theirs import VERSION, device; print(VERSION, device(), sep=', ')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=_environment(THEIRS),
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else f"ended with {done.returncode}"


def _environment(library: str) -> dict[str, str]:
    """OpenBLAS is preloaded for MLX; torch brings a library of its own."""
    hidden = () if library == OURS else ("LD_PRELOAD",)
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _turns(case: Case, libraries: Sequence[str], rounds: int, weights: Path) -> dict[str, Measured]:
    workers: dict[str, subprocess.Popen[str]] = {}
    found = {library: Measured() for library in libraries}
    try:
        for library in libraries:  # ours first: it writes the weights
            workers[library] = _worker(library, case.kind, case, weights)
            _answer(workers[library], found[library])  # it is ready
        for _ in range(rounds):
            for library, worker in workers.items():
                if not found[library].failed:
                    worker.stdin.write("\n")  # type: ignore[union-attr]
                    worker.stdin.flush()  # type: ignore[union-attr]
                    seconds = _answer(worker, found[library])
                    if seconds is not None:
                        found[library].seconds.append(seconds)
        for library, worker in workers.items():
            worker.stdin.close()  # type: ignore[union-attr]
            end = None if found[library].failed else _answer(worker, found[library])
            if end is not None:
                found[library].peak, found[library].waits = end["peak"], end["waits"]
    finally:
        for worker in workers.values():
            _end(worker)
    return found


def _starts(library: str, case: Case, weights: Path, rounds: int) -> Measured:
    """From nothing to the first detections, several times."""
    found = Measured()
    for _ in range(rounds):
        began = time.perf_counter()
        worker = _worker(library, "predict", case, weights)
        if _answer(worker, found) is not None:
            found.seconds.append(time.perf_counter() - began)
        _end(worker)
        if found.failed:
            break
    return found


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    for stream in (worker.stdin, worker.stdout, worker.stderr):
        stream.close()  # type: ignore[union-attr]
    worker.wait()


def _worker(library: str, kind: str, case: Case, weights: Path) -> subprocess.Popen[str]:
    told = (library, kind, json.dumps(dict(case.options)), str(weights))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", SELF, *told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(library),
    )


def _answer(worker: subprocess.Popen[str], found: Measured) -> Any:
    """The next line of a worker; ``None``, and the reason noted, if it has died."""
    line = worker.stdout.readline()  # type: ignore[union-attr]
    if line:
        return json.loads(line)
    lines = worker.stderr.read().strip().splitlines()  # type: ignore[union-attr]
    code = worker.wait()
    found.failed = lines[-1] if lines else f"ended with {code}"
    return None
