"""Keeping freed memory: where it applies, and that the command line does it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from mlx_rcnn import memory as allocator

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
