"""Processes: MLX does not survive a fork once it has computed."""

from __future__ import annotations

import os

_state = {"computed": False, "forked": False}


def _after_fork() -> None:
    _state["forked"] = _state["computed"]


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def about_to_compute() -> None:
    """To be called before a model computes: refuses where MLX would wait for ever.

    MLX's threads and its GPU queues stay behind in the parent. A child forked before the parent has
    computed anything starts its own, and works.

    Raises:
        RuntimeError: this process was forked from one in which a model had computed.
    """
    if _state["forked"]:
        raise RuntimeError(
            "this process was forked from one that had used MLX, which would wait for ever here: "
            'start it with multiprocessing.get_context("spawn"), or load and use the model in the '
            "children only"
        )
    _state["computed"] = True
