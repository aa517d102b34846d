"""Two processes on the loopback: one fails, the other ends with its message within seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from mlx_rcnn import load, peers
from mlx_rcnn.training import watch
from mlx_rcnn.training.checkpoint import LAST

SCRIPT = Path(tiny.__file__).with_name("failing_run.py")
SECONDS = 8.0


def run(tmp_path: Path, how: str, failing: int) -> tuple[list[int], list[str], float]:
    """Exit codes, standard errors, and how long the other lived after the one that failed."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [[f"127.0.0.1:{s.getsockname()[1]}"] for s in sockets]
    for one in sockets:
        one.close()
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    command = [sys.executable, str(SCRIPT), how, str(failing), str(tmp_path / "run")]
    machines = []
    for rank in (0, 1):
        env = os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(tmp_path / "hosts.json")}
        machines.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        first, second = machines[failing], machines[1 - failing]
        first.wait(60)
        began = time.monotonic()
        second.wait(60)
        waited = time.monotonic() - began
    finally:
        for machine in machines:
            machine.kill()
    errors = [machine.communicate()[1] for machine in machines]
    return [machine.returncode for machine in machines], errors, waited


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "failed: no such luck: at all"),
        ("exits", "failed: told to"),
        ("is killed", "is gone: its process was killed, or the connection is lost"),
    ],
)
def test_the_other_ends_with_the_message(tmp_path, how: str, said: str, failing: int) -> None:
    codes, errors, waited = run(tmp_path, how, failing)
    other = 1 - failing
    assert codes[other] == 1 and codes[failing] == (-signal.SIGKILL if how == "is killed" else 1)
    line = f"machine {failing} of 2 {said}; machine {other} stops with it"
    assert errors[other].strip().splitlines()[-1].partition("rror: ")[2] == line
    assert waited < SECONDS


def test_machines_that_fail_together_say_so_themselves(tmp_path) -> None:
    codes, errors, _ = run(tmp_path, "both fail", 0)
    assert codes == [1, 1]
    assert all("ValueError: both know why" in error for error in errors)


def test_machines_that_end_together_end_well(tmp_path) -> None:
    codes, errors, waited = run(tmp_path, "both end", 0)
    assert codes == [0, 0] and errors == ["", ""] and waited < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("how", ["raises", "is killed"])
def test_in_the_middle_of_a_step(tmp_path, how: str, failing: int) -> None:
    codes, errors, waited = run(tmp_path, f"in a step {how}", failing)
    assert codes[1 - failing] == 1 and waited < SECONDS
    assert f"machine {failing} of 2" in errors[1 - failing].strip().splitlines()[-1]
    assert load(tmp_path / "run" / LAST).class_names is not None


class Group:
    """Two machines, of which this is the first or the second."""

    def __init__(self, rank: int):
        self.rank, self.size = (lambda: rank), (lambda: 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_who_cannot_reach_the_first_goes_on_unwatched(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    address = closed.getsockname()
    closed.close()
    monkeypatch.setattr(peers, "_agree", lambda group, listener: (address, 7))
    monkeypatch.setattr(peers, "PATIENCE", 0.3)
    done = False
    with pytest.warns(UserWarning, match="may wait for ever"), watch.watched(Group(rank)):
        done = True
    assert done
