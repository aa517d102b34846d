"""Processes: MLX does not survive a fork once it has computed."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import mlx.core as mx

_PATIENCE = 5.0  # seconds, of which a computation of one number takes none

_state = {"computed": False, "forked": False, "cut off": False}


def _after_fork() -> None:
    _state.update({"forked": True, "cut off": _state["computed"]})


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def about_to_compute() -> None:
    """To be called before a model computes: refuses as :func:`check_process`, and remembers it."""
    check_process()
    _state["computed"] = True


def check_process() -> None:
    """Refuse, by a RuntimeError, where MLX would wait for ever: forked after it had computed."""
    # MLX's threads and its GPU queues stay behind in the parent. A child forked before the parent
    # has computed anything, with this package or with MLX alone, starts its own, and works.
    if _state["forked"]:
        _state["cut off"] = _state["cut off"] or not _answers()
        if _state["cut off"]:
            raise RuntimeError(
                "this process was forked from one that had used MLX, which would wait for ever "
                'here: start it with multiprocessing.get_context("spawn"), or use MLX in the '
                "children only"
            )
        _state["forked"] = False  # asked once


def _answers() -> bool:
    """Whether this thread's stream computes; it is asked from another, which may wait for ever."""
    stream, answered = mx.default_stream(mx.default_device()), threading.Event()

    def ask() -> None:
        # That the stream is another thread's is an answer, too: it is one of this process.
        with suppress(RuntimeError):
            mx.eval(mx.add(mx.ones((1,)), 1.0, stream=stream))
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(_PATIENCE)
