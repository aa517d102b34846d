"""A directory that is being saved to holds the old model or the new one, at every moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
import tiny
from mlx_rcnn import FasterRCNN


class Killed(BaseException):
    """Nothing catches it."""


def models() -> list[FasterRCNN]:
    """Two that differ in sizes, so that no config of the one fits the weights of the other."""
    return [tiny.build(classes=3, min_size=64), tiny.build(classes=5, min_size=80)]


def is_one_of(folder: Path, known: list[FasterRCNN]) -> int:
    found = mlx_rcnn.load(folder)
    weights = dict(tree_flatten(found.parameters()))
    for i, model in enumerate(known):
        own = dict(tree_flatten(model.parameters()))
        if found.config.num_classes == model.config.num_classes:
            assert found.config.min_size == model.config.min_size
            assert all(mx.array_equal(own[k], weights[k]).item() for k in own)
            return i
    raise AssertionError("neither model")


STEPS = ["os.replace", "pathlib.Path.write_text", "mlx.core.save_safetensors"]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(tmp_path, monkeypatch, step: str, after: int, late: bool) -> None:
    known, folder = models(), tmp_path / "m"
    mlx_rcnn.save(known[0], folder)
    place, _, name = step.rpartition(".")
    owner: Any = {"os": os, "pathlib.Path": Path, "mlx.core": mx}[place]
    real, count = getattr(owner, name), iter(range(100))

    def dies(*args: Any, **options: Any) -> Any:
        if next(count) < after:
            return real(*args, **options)
        if late:
            real(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        # A killed process removes nothing behind itself.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        try:
            mlx_rcnn.save(known[1], folder)
        except Killed:
            pass
    is_one_of(folder, known)
    mlx_rcnn.save(known[1], folder)
    assert is_one_of(folder, known) == 1


def test_a_config_edited_by_hand_holds(tmp_path) -> None:
    folder = tmp_path / "m"
    mlx_rcnn.save(tiny.build(), folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "box_score_thresh": 0.37}))
    assert mlx_rcnn.load(folder).config.box_score_thresh == 0.37
    # A directory from before there was a copy of the config with the weights:
    content = json.loads(file.read_text())
    del content["config_id"]
    file.write_text(json.dumps(content))
    weights = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    assert mlx_rcnn.load(folder).config.box_score_thresh == 0.37


def test_what_a_killed_process_left_is_removed(tmp_path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, busy = (folder / f".part-{pid}-model.safetensors" for pid in (gone.pid, os.getppid()))
    left.write_bytes(b"half")
    busy.write_bytes(b"half")
    mlx_rcnn.save(tiny.build(), folder)
    assert not left.exists() and busy.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of a file")
def test_a_full_disk(tmp_path) -> None:
    """Emulated by a limit on the size of a file; the old model stays, and nothing beside it."""
    known, folder = models(), tmp_path / "m"
    mlx_rcnn.save(known[0], folder)
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]); import mlx_rcnn, tiny\n"
        "model = tiny.build(classes=5, min_size=80)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "try: mlx_rcnn.save(model, sys.argv[1])\n"
        "except OSError as error: print('refused:', error); sys.exit(3)\n"
    )
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), tests], capture_output=True, text=True
    )
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert "model.safetensors" in done.stdout
    assert is_one_of(folder, known) == 0
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_a_reader_beside_a_writer(tmp_path) -> None:
    known, folder = models(), tmp_path / "m"
    mlx_rcnn.save(known[0], folder)
    stop = threading.Event()

    def write() -> None:
        for i in range(200):
            if stop.is_set():
                return
            mlx_rcnn.save(known[(i + 1) % 2], folder)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {is_one_of(folder, known) for _ in range(25)}
    finally:
        stop.set()
        writer.join()
    assert seen == {0, 1}


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path) -> None:
    known, folder = models(), tmp_path / "m"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import mlx_rcnn, tiny, itertools\n"
        "pair = [tiny.build(classes=3, min_size=64), tiny.build(classes=5, min_size=80)]\n"
        "for model in itertools.cycle(pair): mlx_rcnn.save(model, sys.argv[1])\n"
    )
    for kill in range(40):
        command = [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)]
        process = subprocess.Popen(command)
        while not (folder / "config.json").exists():
            time.sleep(0.01)
        time.sleep(1 + 0.017 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        is_one_of(folder, known)
    shutil.rmtree(folder)
