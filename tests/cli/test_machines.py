"""Two machines on the loopback find what one finds, to the bit; one of them may be killed."""

from __future__ import annotations

import filecmp
import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.data import write_dataset
from mlx_rcnn.data.dataset import DetectionDataset
from mlx_rcnn.data.items import Item
from mlx_rcnn.ops.rle import encode_rle

NAMES = ("__background__", "circle", "square", "triangle")
SCRIPT = Path(tiny.__file__).with_name("sharing_run.py")
LAUNCH = Path(sys.executable).with_name("mlx.launch")
COUNT, BROKEN = 7, "3 é.png"
KEPT = ("--save", "csv,coco,crops", "--score-thresh", "0.2", "--confidence", "0.2", "--top-k", "5")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, photos of which one is broken, a data set, and what one machine makes of them."""
    folder = tmp_path_factory.mktemp("machines")
    model = tiny.build("mask_rcnn")
    model.config = replace(model.config, class_names=NAMES)
    mlx_rcnn.save(model, folder / "model")
    (folder / "photos").mkdir()
    data = tiny.shapes(COUNT)
    for i in range(COUNT):
        Image.fromarray(np.asarray(data[i].image)).save(folder / f"photos/{i} é.png")
    write_dataset(_annotated(folder, data), folder / "data", "coco")
    (folder / "photos" / BROKEN).write_bytes(b"no image")
    codes, errors = run(folder, predict("one"), machines=1)
    assert codes == [1] and BROKEN in errors[0]
    assert run(folder, evaluate("one.json"), machines=1)[0] == [0]
    (folder / "shown.txt").rename(folder / "one.txt")
    return folder


def _annotated(folder: Path, data):
    items = []
    for i in range(COUNT):
        path, target = folder / f"photos/{i} é.png", data[i].target
        masks = [encode_rle(mask) for mask in target["masks"]]
        items.append(Item(path, i + 1, path.name, tiny.SIZE, _target(target), segmentations=masks))
    return DetectionDataset(items, NAMES, masks=True)


def _target(target):
    count = len(target["labels"])
    more = {"iscrowd": np.zeros(count, bool), "difficult": np.zeros(count, bool)}
    return {k: target[k] for k in ("boxes", "labels")} | more


def predict(out: str, *more: str) -> list[str]:
    """Into a folder."""
    return ["predict", "photos", "--model", "model", "--out", out, *KEPT, *more]


def evaluate(results: str, *more: str) -> list[str]:
    """Into a file."""
    given = ["--data", "data/annotations.json", "--images", "data/images"]
    return ["evaluate", "--model", "model", "--json", results, "--batch-size", "2", *given, *more]


def run(
    here: Path, command: list[str], dies: tuple[int, int] = (0, 0), machines: int = 2
) -> tuple[list[int], list[str]]:
    """Exit codes and standard errors; of the first machine's output the lines without times.

    Args:
        dies: which machine, and in which call.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(machines)]
    hosts = [[f"127.0.0.1:{s.getsockname()[1]}"] for s in sockets]
    for one in sockets:
        one.close()
    (here / "hosts.json").write_text(json.dumps(hosts))
    started = []
    for rank in range(machines):
        call = dies[1] if rank == dies[0] else 0
        env = os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(here / "hosts.json")}
        if machines == 1:
            env = dict(os.environ)
        words = [sys.executable, str(SCRIPT), str(call), *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(words, env=env, cwd=here, text=True, **pipes))
    try:
        outputs = [one.communicate(timeout=120) for one in started]
    finally:
        for one in started:
            one.kill()
    assert not any(out for out, _ in outputs[1:])  # the first alone has something to say
    (here / "shown.txt").write_text(outputs[0][0])
    return [one.returncode for one in started], [err for _, err in outputs]


def assert_same(one: Path, other: Path) -> None:
    """Two folders hold the same files."""
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (one, other)]
    assert files[0] == files[1]
    assert filecmp.cmpfiles(one, other, files[0], shallow=False)[1:] == ([], [])


def metrics(shown: Path) -> list[str]:
    """The table that was printed, without times and names of files."""
    text = re.sub(r"; images per second.*|results: .*", "", shown.read_text())
    return text.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed beside Python")
def test_launched_they_write_what_one_writes(here: Path) -> None:
    own = [str(LAUNCH), "-n", "2", "--backend", "ring", "--", sys.executable, str(SCRIPT), "0"]
    done = subprocess.run(
        [*own, *predict("launched")], cwd=here, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr and BROKEN in done.stderr
    # The exit code of the one that writes, for the broken image; the other has none of its own.
    assert "rank 0 exited with code 1" in done.stderr and "rank 1" not in done.stderr
    assert_same(here / "one", here / "launched")


def test_the_first_prints_json_alone(here: Path) -> None:
    codes, errors = run(here, predict("printed", "--json", "-"))
    assert codes == [1, 0] and BROKEN in errors[0] and "images per second" in errors[0]
    assert (here / "shown.txt").read_bytes() == (here / "one/detections.json").read_bytes()
    codes, errors = run(here, evaluate("-", "--quiet"))
    assert codes == [0, 0] and errors == ["", ""]
    assert (here / "shown.txt").read_bytes() == (here / "one.json").read_bytes()
    assert not list(here.glob("*.partial.jsonl"))


def test_a_machine_that_dies_leaves_the_others_results(here: Path) -> None:
    codes, errors = run(here, predict("other"), dies=(1, 2))
    assert codes == [1, -signal.SIGKILL]
    last = errors[0].splitlines()[-1]
    assert last.startswith("mlx_rcnn: error: machine 1 of 2 is gone: its process was killed")
    [missing] = re.findall(r"(\d) of 7 images are missing, listed in (\S+): --resume", last)
    lines = (here / missing[1]).read_text().splitlines()
    assert len(lines) == int(missing[0]) and 1 <= len(lines) <= 2
    found = json.loads((here / "other/detections.json").read_text())
    images = {f"photos/{i} é.png" for i in range(COUNT)} - {f"photos/{BROKEN}"}
    assert {entry["image_id"] for entry in found} == images - set(lines)
    # Two machines do the rest, and the whole is what one machine makes of all of it.
    codes, errors = run(here, predict("other", "--resume"))
    assert codes == [1, 0] and BROKEN in errors[0] and errors[1] == ""
    assert_same(here / "one", here / "other")


@pytest.mark.slow
def test_the_first_that_dies_ends_the_other_and_is_gone_on_from(here: Path) -> None:
    codes, errors = run(here, predict("first"), dies=(0, 2))
    assert codes == [-signal.SIGKILL, 1]
    said = "machine 0 of 2 is gone: its process was killed, or the connection is lost"
    assert errors[1] == f"mlx_rcnn: error: {said}; machine 1 stops with it\n"
    kept = (here / "first/detections.partial.jsonl").read_bytes().count(b"\n")
    assert 2 <= kept < COUNT  # what it is of, and some images
    assert run(here, predict("first", "--resume"), machines=1)[0] == [1]
    assert_same(here / "one", here / "first")


def test_evaluation_is_that_of_one_machine(here: Path) -> None:
    wanted = metrics(here / "one.txt")
    codes, errors = run(here, evaluate("two.json"), dies=(1, 1))
    assert codes == [1, -signal.SIGKILL] and "images are missing" in errors[0].splitlines()[-1]
    assert (
        metrics(here / "shown.txt") == [] and not (here / "two.json").exists()
    )  # no metrics of some images
    assert run(here, evaluate("two.json", "--resume"))[0] == [0, 0]
    assert metrics(here / "shown.txt") == wanted and len(wanted) > 5
    assert (here / "two.json").read_bytes() == (here / "one.json").read_bytes()
    assert not list(here.glob("two.*.*"))
