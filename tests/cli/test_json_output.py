"""``--json -``: standard output holds JSON and nothing else, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.benchmark.measure import OURS, Measured
from mlx_rcnn.cli import benchmark
from mlx_rcnn.cli.doctor import checks as doctor_checks
from mlx_rcnn.cli.doctor import command as doctor
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.sharing.first_machine import First
from mlx_rcnn.data import write_coco
from mlx_rcnn.files import replacing

DATA = "data/annotations.json"
PREDICT = ["predict", "photos", "--model", "model", "--no-images"]
EVALUATE = ["evaluate", "--data", DATA, "--model", "model", "--metric", "voc"]
FULL = "No space left on device"


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    model = tiny.build()
    model.config = replace(model.config, class_names=tiny.shapes().class_names)
    mlx_rcnn.save(model, folder / "model")
    body = mlx_rcnn.ResNetFPNConfig(18, 0, width=8, out_channels=8, norm="group", norm_groups=4)
    network = mlx_rcnn.ProposalNetwork(body, 8, use_fpn=True, min_size=64, max_size=96)
    mlx_rcnn.save(network, folder / "rpn")
    data = tiny.shapes()
    write_coco(data, folder / "data")
    (folder / "photos").mkdir()
    for i in range(2):
        Image.fromarray(data[i].image).save(folder / f"photos/{i}.png")
    return folder


@pytest.fixture
def here(laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, data and photos; what is written is not kept."""
    monkeypatch.chdir(tmp_path)
    for entry in laid_out.iterdir():
        os.symlink(entry, entry.name)
    return tmp_path


def printed(capfd: Any, *words: str, code: int = 0) -> tuple[Any, str]:
    """What standard output holds, read as JSON, and standard error."""
    capfd.readouterr()
    assert main([*words]) == code
    out, err = capfd.readouterr()
    return json.loads(out), err


def test_predictions_are_those_of_a_file(here: Path, capfd: Any) -> None:
    found, err = printed(capfd, *PREDICT, "--json", "-", "--out", "none")
    assert "2 images, " in err and "results: standard output" in err and "2/2" in err
    assert not Path("none").exists()
    assert main([*PREDICT, "--json", "file.json"]) == 0
    assert found == json.loads(Path("file.json").read_text()) and len(found) > 2
    assert (found, "") == printed(capfd, *PREDICT, "--json", "-", "--quiet")
    one, err = printed(capfd, *PREDICT, "--json", "-", "--save", "csv,coco", "--out", "saved")
    assert one == found and sorted(os.listdir("saved")) == ["coco", "detections.csv"]
    assert "csv: saved/detections.csv" in err


def test_measurements(here: Path, capfd: Any) -> None:
    found, err = printed(capfd, *EVALUATE, "--json", "-")
    assert "mAP at IoU 0.5" in err and {"bbox", "score"} <= found[0].keys()
    assert main([*EVALUATE, "--json", "found.json", "--metrics-json", "metrics.json"]) == 0
    assert found == json.loads(Path("found.json").read_text())
    metrics, err = printed(capfd, *EVALUATE, "--metrics-json", "-", "--quiet")
    assert err == ""
    # Random weights find nothing of some classes: NaN is null, which JSON has no word for.
    assert metrics["mAP"] is not None and set(metrics["per_class"]) >= {"circle", "square"}
    of_file = json.loads(Path("metrics.json").read_text())
    assert metrics | {"images_per_second": 0} == of_file | {"images_per_second": 0}
    again = ["evaluate", "--data", DATA, "--predictions", "found.json", "--metric", "voc"]
    assert printed(capfd, *again, "--metrics-json", "-")[0]["mAP"] == metrics["mAP"]
    words = ["evaluate", "--data", DATA, "--model", "rpn", "--metric", "voc"]
    rows, err = printed(capfd, *words, "--metrics-json", "-")
    assert rows["objects"] > 0 and len(rows["recall"]) == len(rows["limits"]) and "IoU 0.5" in err


def test_proposals_go_to_the_folder(here: Path, capfd: Any) -> None:
    words = ["predict", "photos", "--model", "rpn", "--no-images", "--out", "deep/er"]
    found, err = printed(capfd, *words, "--json", "-")
    assert found and "proposals: deep/er/proposals.npz" in err
    assert os.listdir("deep/er") == ["proposals.npz"]


def test_what_is_told_of_models_and_data(here: Path, capfd: Any) -> None:
    found, err = printed(capfd, "info", "--model", "model", "--json", "-")
    model = mlx_rcnn.load("model")
    from mlx.utils import tree_flatten

    assert found["parameters"] == sum(v.size for _, v in tree_flatten(model.parameters()))
    assert found["model"] == "FasterRCNN" and found["config"]["num_classes"] == 4
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"].values())
    assert err.startswith("architecture ")

    content = json.loads(Path(DATA).read_text())
    content["annotations"][0]["bbox"][2] = -1
    content["images"] = [
        {**image, "file_name": str(Path("data/images").resolve() / image["file_name"])}
        for image in content["images"]
    ]
    Path("wrong.json").write_text(json.dumps(content))
    checked, err = printed(capfd, "data", "check", "wrong.json", "--json", "-", code=1)
    assert [d["rule"] for d in checked["defects"]] == ["object dropped"] and "1 defect" in err
    assert checked["images"] == 6 and checked["objects"] == len(content["annotations"]) - 1
    stats, err = printed(capfd, "data", "stats", "wrong.json", "--json", "-")
    [split] = stats["splits"]
    assert sum(split["objects"].values()) == checked["objects"] and len(split["defects"]) == 1
    assert stats["anchors"]["now"]["shapes"]["ratios"] == [0.5, 1.0, 2.0] and "recall" in err
    sides = stats["percentiles"]["side, image"]
    assert list(sides) == ["0", "5", "25", "50", "75", "95", "100"]
    assert list(sides.values()) == sorted(sides.values())


def test_of_this_machine(here: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = doctor_checks.CHECKS[0]
    wrong = right._replace(compute=lambda: [right.compute()[0][1:]])  # no finite error
    monkeypatch.setattr(doctor, "CHECKS", (right, wrong))
    found, err = printed(capfd, "doctor", "--json", "-", code=1)
    assert [check["error"] is None for check in found["checks"]] == [False, True]
    assert "1 of 2 failed" in err and "FAILED" in err
    monkeypatch.setattr(benchmark, "measure", lambda *_: {OURS: Measured([0.1], 1)})
    case = next(iter(benchmark.CASES))
    found, err = printed(capfd, "benchmark", case, "--against", "nothing", "--json", "-")
    assert found["cases"][0]["libraries"][OURS]["seconds"] == [0.1] and "| 100 ms |" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*EVALUATE, "--json", "-", "--metrics-json", "-"], "--json - and --metrics-json -: expec"),
        ([*EVALUATE, "--json", "a.json", "--metrics-json", "a.json"], "a.json: expected two files"),
        ([*EVALUATE, "--metrics-json", DATA], f"--metrics-json {DATA} is part of the data"),
        (
            ["evaluate", "--data", DATA, "--predictions", "wrong.json", "--metric", "voc"]
            + ["--metrics-json", "wrong.json"],
            "--metrics-json wrong.json is part of the data",
        ),
        ([*EVALUATE, "--metrics-json", "photos"], "--metrics-json photos is a folder"),
        ([*EVALUATE, "--json", "-", "--resume"], "--resume goes with --json FILE"),
        ([*PREDICT, "--json", "-", "--resume"], "--resume goes with --json FILE"),
        ([*PREDICT, "--json", "photos"], "--json photos is a folder: expected a file"),
        ([*PREDICT, "--json", ""], "--json '' is a folder: expected a file"),
        ([*PREDICT, "--json", "photos/0.png"], "photos/0.png is one of the images"),
        (["info", "--model", "model", "--json", "photos"], "photos is a folder: expected a file"),
        (["data", "check", DATA, "--json", f"{DATA}/x"], "annotations.json is not a folder"),
        (["data", "stats", DATA, "--json", "photos"], "photos is a folder: expected a file"),
        (["benchmark", "--json", "photos"], "photos is a folder: expected a file"),
    ],
)
def test_what_cannot_work(here: Path, capfd: Any, words: list[str], message: str) -> None:
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_an_error_leaves_nothing_or_all_that_was_done(
    here: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["info", "--model", "none", "--json", "-"]) == 2
    assert capfd.readouterr().out == ""
    Path("mixed").mkdir()
    Image.new("RGB", (64, 64)).save("mixed/a.png")
    Path("mixed/broken.png").write_bytes(b"no image")
    words = ["predict", "mixed", "--model", "model", "--no-images", "--json", "-"]
    found, err = printed(capfd, *words, code=1)
    assert "broken.png" in err and all(e["image_id"] == "mixed/a.png" for e in found)

    share = First.share

    def interrupted(self: First, batches: Any, predict: Any, keep: Any) -> None:
        def keep_one(*given: Any) -> None:
            keep(*given)
            raise KeyboardInterrupt

        share(self, batches, predict, keep_one)

    monkeypatch.setattr(First, "share", interrupted)
    found, err = printed(capfd, *PREDICT, "--json", "-", code=130)
    assert {entry["image_id"] for entry in found} == {"photos/0.png"} and "interrupted" in err
    assert main([*EVALUATE, "--json", "-"]) == 130  # no metrics, and so no detections
    assert capfd.readouterr().out == ""


def run(here: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell, in which ``$M`` is the command."""
    env = {**os.environ, "M": f"{sys.executable} -m mlx_rcnn", "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=here, env=env, capture_output=True, text=True
    )


INFO = "$M info --model model"
SLOW = pytest.mark.slow  # a process each


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it")
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (f"{INFO} --json - --quiet >/dev/full", 1, f"cannot write standard output: {FULL}"),
        (f"{INFO} --json - --quiet | true", 1, None),  # the reader has left: no word of it
        pytest.param(f"{INFO} >/dev/full", 1, f"cannot write: {FULL}", marks=SLOW),
        pytest.param("$M --help >/dev/full", 1, f"cannot write: {FULL}", marks=SLOW),
        pytest.param(f"{INFO} >&-", 0, None, marks=SLOW),
        pytest.param(f"{INFO} --json - >&-", 2, "--json -: standard output is closed", marks=SLOW),
        pytest.param(
            f"{INFO} --json - 2>&- | {sys.executable} -m json.tool >/dev/null", 0, None, marks=SLOW
        ),
    ],
)
def test_standard_output_that_is_full_closed_or_left(here, command, code, said) -> None:
    done = run(here, command)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == ("" if said is None else f"mlx_rcnn: error: {said}\n")
    assert Path("/dev/full").is_char_device()


def test_the_shells_own_standard_output(here: Path) -> None:
    info = "$M info --model model --json"
    done = run(here, f"{info} /dev/stdout > file; {info} - 2>/dev/null | head -1")
    assert json.loads(Path("file").read_text())["model"] == "FasterRCNN"
    assert done.stdout == "{\n" and Path("file").is_file() and os.path.islink("/dev/stdout")


def test_devices_pipes_and_open_files(here: Path, capfd: Any) -> None:
    info = ["info", "--model", "model", "--quiet", "--json"]
    assert printed(capfd, *info, "/dev/stdout") == printed(capfd, *info, "/dev/fd/1")
    with open("open", "w") as file:
        assert main([*info, f"/dev/fd/{file.fileno()}"]) == 0
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
    reader.start()
    assert main([*info, "pipe"]) == 0
    reader.join(30)
    assert main([*PREDICT, "--json", "/dev/null", "--quiet", "--out", "none"]) == 0
    assert main([*EVALUATE, "--json", "/dev/null", "--quiet"]) == 0
    assert not Path("none").exists() and not list(Path("/dev").glob("null.*"))
    assert read == [Path("open").read_text()] and Path("pipe").is_fifo()
    assert json.loads(read[0])["model"] == "FasterRCNN"
    assert capfd.readouterr() == ("", "")


def test_what_a_pipe_gets_is_whole(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with pytest.raises(RuntimeError), replacing(pipe) as part:
        part.write_text("half")
        raise RuntimeError
    with replacing(pipe) as part:
        part.write_text("whole")
    reader.join(30)
    assert got == ["whole"] and pipe.is_fifo()
