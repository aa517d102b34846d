"""Two machines that share a batch take the step of one machine, on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_rcnn.ops.losses import normaliser
from mlx_rcnn.training.checkpoint import LAST

SCRIPT = Path(tiny.__file__).with_name("distributed_run.py")
LAUNCH = Path(sys.executable).with_name("mlx.launch")


def run(machines: int, *args: str) -> None:
    command = [sys.executable, str(SCRIPT), *args]
    if machines > 1:
        command = [str(LAUNCH), "-n", str(machines), "--backend", "ring", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    # mlx.launch itself always ends well.
    assert "Traceback" not in done.stderr and "exited" not in done.stdout, done.stderr[-3000:]


def weights(folder: Path) -> dict[str, np.ndarray]:
    arrays = mx.load(str(folder / LAST / "state.safetensors"))
    return {k: np.array(v) for k, v in arrays.items()}


@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed beside Python")
def test_two_at_batch_2_are_one_at_batch_4(tmp_path: Path):
    run(1, str(tmp_path / "one"), "4")
    run(2, str(tmp_path / "two"), "2")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-5, err_msg=name)
    run(2, str(tmp_path / "two"), "2", "resume")  # the others get all from the first
    again = weights(tmp_path / "two")
    for name in two:
        np.testing.assert_array_equal(again[name], two[name], err_msg=name)
    lines = [(tmp_path / n / "metrics.jsonl").read_text().count("\n") for n in ("one", "two")]
    assert lines == [6, 6]  # 2 epochs of 2 steps and an evaluation: the first machine alone wrote
    # Nor were the loggers of the others told anything.
    assert (tmp_path / "two-told-0").read_text().count("\n") == 6
    assert not (tmp_path / "two-told-1").exists()


@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed beside Python")
def test_both_end_when_patience_is_over(tmp_path: Path):
    run(2, str(tmp_path), "2", "patience")  # the first alone knows the scores
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 6  # 2 of 6 epochs


def test_normaliser_alone():
    # The count, but never 0.
    assert [normaliser(mx.array(n)).item() for n in (0, 1, 7)] == [1, 1, 7]
    assert normaliser(mx.array(0), mx.distributed.init()).item() == 1
