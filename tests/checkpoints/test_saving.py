"""Saving is whole: whatever stops a writer, a reader gets the old model or the new one."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_rcnn
from mlx_rcnn import FasterRCNN, ResNetFPNConfig
from mlx_rcnn.files import replacing

# The functions that change the disk, by the names they are called by.
STEPS = (
    "pathlib.Path.write_text",
    "mlx.core.save_safetensors",
    "os.fsync",
    "os.replace",
    "os.unlink",
    "pathlib.Path.unlink",
    "pathlib.Path.rmdir",
    "pathlib.Path.mkdir",
)


class Killed(BaseException):
    pass


def tiny(channels: int, classes: int) -> FasterRCNN:
    backbone = ResNetFPNConfig(depth=18, num_classes=0, width=8, out_channels=channels)
    model = FasterRCNN(backbone, channels, classes, use_fpn=True, hidden_dim=16)
    model.source = f"{classes} classes"
    return model


@pytest.fixture(scope="module")
def models() -> tuple[FasterRCNN, FasterRCNN]:
    old, new = tiny(8, 2), tiny(16, 4)
    mx.eval(old.parameters(), new.parameters())
    return old, new


def kill_at(step: int, patch: pytest.MonkeyPatch, after: bool, error: type[BaseException]) -> None:
    """From one change of the disk on, nothing changes it: the process is as good as gone."""
    count = 0

    def wrap(original: Callable) -> Callable:
        def run(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count > step or (count == step and not after):
                raise error
            done = original(*args, **kwargs)
            if count == step:
                raise error
            return done

        return run

    for name in STEPS:
        owner, _, attribute = name.rpartition(".")
        original = getattr(mx if owner.startswith("mlx") else os, attribute, None)
        if owner.startswith("pathlib"):
            original = getattr(Path, attribute)
        patch.setattr(name, wrap(original))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.filterwarnings("ignore:.*was not written with")
def test_stopped_at_every_step(folder: Path, models, after: bool, error) -> None:
    old, new = models
    for step in range(1, 100):
        place = folder / "model"
        mlx_rcnn.save(old, place)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(step, patch, after, error)
            try:
                mlx_rcnn.save(new, place)
                done = True
            except error:
                done = False
        back = mlx_rcnn.load(place)
        assert back.source in ("2 classes", "4 classes")
        assert back.config.num_classes == int(back.source[0])
        if done:
            break
        mlx_rcnn.save(new, place)  # what a killed writer left goes, unless it may be alive
        assert mlx_rcnn.load(place).config.num_classes == 4
    assert done and step > 6


def test_a_first_save_that_fails_leaves_nothing(folder: Path, models, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[write] Unable to write 100 bytes to file.")

    monkeypatch.setattr("mlx.core.save_safetensors", full)
    with pytest.raises(OSError, match="cannot write"):
        mlx_rcnn.save(models[0], folder / "model")
    assert not (folder / "model").exists()


def test_a_full_disk(folder: Path, models) -> None:
    """Emulated by a limit on the size of files; the old model stays, and no part of the new."""
    old, new = models
    mlx_rcnn.save(old, folder)
    before = sorted(os.listdir(folder))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 5000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(OSError):
                mlx_rcnn.save(new, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(os.listdir(folder)) == before
        assert mlx_rcnn.load(folder).config.num_classes == 2


def test_settings_edited_by_hand(folder: Path, models) -> None:
    mlx_rcnn.save(models[0], folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "box_score_thresh": 0.7}))
    assert mlx_rcnn.load(folder).config.box_score_thresh == 0.7
    mlx_rcnn.save(models[1], folder)  # of other weights: the edit is not of this model
    file.write_text(json.dumps({**config, "box_score_thresh": 0.7}))
    with pytest.warns(UserWarning, match="was not written with model.safetensors"):
        assert mlx_rcnn.load(folder).config.num_classes == 4
    file.unlink()
    assert mlx_rcnn.load(folder).config.box_score_thresh == 0.05


def test_weights_written_by_other_means(folder: Path, models) -> None:
    """Files of before, and of MLX's own tools, have no config in the metadata."""
    mlx_rcnn.save(models[0], folder)
    weights = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)  # read before the file is written
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    assert mlx_rcnn.load(folder).config.num_classes == 2


def test_equal_models_give_equal_files(folder: Path, models) -> None:
    for name in "ab":
        mlx_rcnn.save(models[0], folder / name)
    assert (folder / "a/config.json").read_bytes() == (folder / "b/config.json").read_bytes()


@pytest.mark.filterwarnings("ignore:.*was not written with")
def test_a_reader_meets_one_of_two_models(folder: Path, models) -> None:
    mlx_rcnn.save(models[0], folder)
    stop = threading.Event()
    thread = threading.Thread(target=write_in_turn, args=(models, folder, stop))
    thread.start()
    try:
        seen = {mlx_rcnn.load(folder).source for _ in range(25)}
    finally:
        stop.set()
        thread.join()
    assert seen <= {"2 classes", "4 classes"}


def write_in_turn(models: tuple[FasterRCNN, ...], folder: Path, stop: threading.Event) -> None:
    # On streams of this thread: the arrays are evaluated, and written as they are.
    from mlx_rcnn.checkpoints.directory import read_model, write_model

    stored = []
    for index, model in enumerate(models):
        mlx_rcnn.save(model, folder.with_name(f"{folder.name}-{index}"))
        stored.append(read_model(folder.with_name(f"{folder.name}-{index}")))
    while not stop.is_set():
        for one in stored:
            write_model(folder, {**one.config}, one.weights)


def test_leftovers_of_the_dead_are_removed(folder: Path) -> None:
    code = (
        "import os, sys, signal, pathlib\nfrom mlx_rcnn.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "x.json")], check=False)
    assert len(os.listdir(folder)) == 1
    with replacing(folder / "x.json") as part:
        assert len(os.listdir(folder)) == 0
        part.write_text("whole")
    assert os.listdir(folder) == ["x.json"]


SAVING = """
import itertools, sys, mlx_rcnn
from mlx_rcnn import FasterRCNN, ResNetFPNConfig
def tiny(channels, classes):
    backbone = ResNetFPNConfig(depth=18, num_classes=0, width=8, out_channels=channels)
    model = FasterRCNN(backbone, channels, classes, use_fpn=True, hidden_dim=16)
    model.source = f"{classes} classes"
    return model
for number, model in enumerate(itertools.cycle([tiny(8, 2), tiny(16, 4)])):
    mlx_rcnn.save(model, sys.argv[1])
    if number == 1: print("begun", flush=True)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*was not written with")
def test_killed_at_random(folder: Path) -> None:
    draw = random.Random(0)
    for _ in range(40):
        command = [sys.executable, "-c", SAVING, str(folder / "m")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(draw.random() / 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        model = mlx_rcnn.load(folder / "m")
        assert model.source == f"{model.config.num_classes} classes"
    mlx_rcnn.save(tiny(8, 2), folder / "m")
    assert sorted(os.listdir(folder / "m")) == ["config.json", "model.safetensors"]


@pytest.mark.slow
def test_a_disk_that_is_full(folder: Path, models) -> None:
    place = folder / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        mlx_rcnn.save(models[0], place)
        (place / "filler").write_bytes(bytes(os.statvfs(place).f_bavail * 4096 - 50_000))
        with pytest.raises(OSError):
            mlx_rcnn.save(models[1], place)
        assert mlx_rcnn.load(place).config.num_classes == 2
        assert sorted(os.listdir(place)) == ["config.json", "filler", "model.safetensors"]
    finally:
        subprocess.run(["umount", str(place)], check=False)
