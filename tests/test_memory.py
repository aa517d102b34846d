"""Keeping freed memory: where it applies, and that the command line does it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread

import mlx.core as mx
import pytest

import tiny
from mlx_rcnn import memory as allocator
from mlx_rcnn.training import fit

REUSED = """
import ctypes, os, sys
from mlx_rcnn.memory import reuse_large_blocks
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "on":
    assert reuse_large_blocks()
before = int(open("/proc/self/statm").read().split()[0])
block = libc.malloc(256 << 20)
libc.free(block)
pages = int(open("/proc/self/statm").read().split()[0]) - before
print(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_freed_block_stays():
    def mebibytes(mode: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", REUSED, mode], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert mebibytes("off") < 16  # given back
    assert mebibytes("on") > 200  # of 256


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_happens(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the C library was touched"))
    assert not allocator.reuse_large_blocks()


def test_another_c_library(monkeypatch):
    def missing(name):
        raise OSError("no such library")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not allocator.reuse_large_blocks()


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """MLX's limit, emulated: a CPU build may keep none. The last one is what holds."""
    held = [100 << 30]

    def set_cache_limit(limit: int) -> int:
        held.append(limit)
        return held[-2]

    monkeypatch.setattr("mlx.core.set_cache_limit", set_cache_limit)
    return held


def test_the_cache_is_bounded_and_what_held_is_restored(limits: list[int]) -> None:
    with allocator.bounded_cache():
        assert limits[-1] == allocator.cache_limit() <= 8 << 30
        with allocator.bounded_cache(1):  # the outer block decides
            assert limits[-1] == allocator.cache_limit()
    assert limits[-1] == 100 << 30
    with pytest.raises(KeyError), allocator.bounded_cache(5):
        assert limits[-1] == 5
        raise KeyError
    assert limits[-1] == 100 << 30


def test_a_tighter_limit_of_the_users_own_holds(limits: list[int]) -> None:
    limits.append(1 << 20)
    with allocator.bounded_cache():
        assert limits[-1] == 1 << 20
    assert limits[-1] == 1 << 20


def test_threads_share_one_bound(limits: list[int]) -> None:
    inside, leave = Barrier(3), Event()

    def run() -> None:
        with allocator.bounded_cache():
            inside.wait()
            leave.wait()

    workers = [Thread(target=run) for _ in range(2)]
    for worker in workers:
        worker.start()
    inside.wait()
    assert limits[-1] == allocator.cache_limit()
    leave.set()
    for worker in workers:
        worker.join()
    assert limits == [100 << 30, allocator.cache_limit(), 100 << 30]


@pytest.mark.parametrize(
    ("memory", "limit"), [(1, 512 << 20), (16 << 30, 4 << 30), (1 << 40, 8 << 30)]
)
def test_the_machine_decides(memory: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx.core.device_info", lambda: {"memory_size": memory})
    assert allocator.cache_limit() == limit


@pytest.mark.parametrize(("device", "gigabytes"), [(mx.cpu, 0.25), (mx.gpu, 2.0)])
def test_a_cpu_keeps_little_in_training(device, gigabytes, monkeypatch) -> None:
    monkeypatch.setattr("mlx.core.default_device", lambda: mx.Device(device, 0))
    assert allocator.training_cache() == gigabytes * 1e9
    assert allocator.training_cache(0.0) == 0


def test_training_restores_the_limit(limits: list[int], tmp_path: Path) -> None:
    data = tiny.shapes(2)
    fit(tiny.build(), data, None, replace(tiny.CONFIG, epochs=1, cache_limit=0.25), tmp_path / "a")
    assert 250_000_000 in limits and limits[-1] == 100 << 30
