"""The machines that ``mlx.launch`` has started for a command that shares images."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import mlx.core as mx

from ...messages import one_line
from ...peers import meet
from ..errors import CommandError
from .first_machine import First
from .other_machine import Other


@contextmanager
def machines() -> Iterator[First | Other]:
    """The machines that ``mlx.launch`` has started, connected; to be entered before all else."""
    group = mx.distributed.init()
    if group.size() == 1:
        yield First({}, 1)
        return
    with _told_to_end():
        peers, problem = meet(group)
        if problem:
            raise CommandError(f"{problem}: machines that share images talk to the first one", 1)
        size, rank = group.size(), group.rank()
        team = First(peers, size) if rank == 0 else Other(peers[0], rank, size)
        try:
            yield team
        except KeyboardInterrupt as error:
            fate = team.fate()
            team.leave("was interrupted")
            if fate:
                raise CommandError(fate, 1) from error
            raise
        except BaseException as error:
            team.leave(f"failed: {one_line(error)}")
            raise
        team.leave()


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Be interrupted, and not killed, where a launcher ends the machines because one has failed."""
    signals = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]

    def interrupt(*_: object) -> NoReturn:
        for one in signals:  # once: what comes next is kept in peace
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
