"""``mlx_rcnn doctor``: whether the package computes what it should on this machine."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata

import mlx.core as mx
import numpy as np

from ...memory import machine_memory
from ...messages import one_line
from ..colour import coloured
from ..info import runs_on
from ..said import say_problem
from .checks import CHECKS, Arrays, Check

REPORT = "please report this table, from --json, as an issue"


@dataclass
class Found:
    """What became of one check."""

    name: str
    against: str
    # the greatest difference as a share of the greatest value
    error: float | None
    bound: float
    seconds: float
    # why nothing was computed
    failed: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.error is not None and self.error <= self.bound


def run(args: argparse.Namespace) -> int:
    """Check every operation, a prediction and two training steps; 1 if a bound does not hold."""
    if args.json is not None:
        args.json.check()
    machine = describe_machine()
    for name, value in machine.items():
        print(f"{name:<9} {value}")
    print(f"\n{'check':<34} {'against':<8} {'largest error':>14} {'bound':>9} {'s':>6}")
    results = []
    for check in CHECKS:
        found = examine(check)
        results.append(found)
        error = "-" if found.error is None else f"{found.error:.2g}"
        failed = coloured("FAILED", "red", sys.stdout)
        verdict = "" if found.passed else f"  {failed} {found.failed or ''}".rstrip()
        print(
            f"{found.name:<34} {found.against:<8} {error:>14} {found.bound:>9.2g} "
            f"{found.seconds:>6.1f}{verdict}",
            flush=True,
        )
    if args.json is not None:
        content = {
            "machine": machine,
            "checks": [asdict(f) | {"passed": f.passed} for f in results],
        }
        args.json.write_content(content)
    wrong = [found.name for found in results if not found.passed]
    if wrong:
        say_problem(f"{len(wrong)} of {len(results)} failed: {REPORT}")
        return 1
    print(f"\nall {len(results)} checks hold")
    return 0


def describe_machine() -> dict[str, str]:
    """Versions, chip, memory and device, a line each."""
    names = ("mlx-rcnn", "mlx", "numpy", "pillow")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} (not installed)")
    return {
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "memory": f"{machine_memory() / 2**30:.0f} GiB",
        "runs on": runs_on(),
    }


def examine(check: Check) -> Found:
    """Run one check and compare; an error of it is kept, so that the other checks run."""
    began = time.perf_counter()
    on_gpu = mx.default_device().type == mx.gpu
    bound = check.gpu_bound if on_gpu else check.bound
    against = "NumPy" if check.oracle else "the CPU" if on_gpu else "itself"
    try:
        got = check.compute()
        wanted = check.oracle() if check.oracle else _on_cpu(check)
        error = difference(got, wanted)
        failed = None
    except Exception as caught:  # whatever it is, it is the answer
        error, failed = None, f"{type(caught).__name__}: {one_line(caught)}"
    return Found(check.name, against, error, bound, time.perf_counter() - began, failed)


def _on_cpu(check: Check) -> Arrays:
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        return check.compute()
    finally:
        mx.set_default_device(device)


def difference(got: Arrays, wanted: Arrays) -> float:
    """The greatest difference of two lists of arrays, as a share of the greatest value of each."""
    worst = 0.0
    for ours, theirs in zip(got, wanted, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(ours.astype(np.float64)).all():
            return float("inf")
        if ours.dtype == bool or theirs.dtype.kind in "iu":
            worst = max(worst, float(np.mean(ours != theirs)) if ours.size else 0.0)
            continue
        largest = max(float(np.abs(theirs).max(initial=0)), 1e-30)
        worst = max(worst, float(np.abs(ours - theirs).max(initial=0)) / largest)
    return worst
