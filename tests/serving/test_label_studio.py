"""Label Studio's ML backend: requests as it sends them, regions as it draws them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import mlx_rcnn
from mlx_rcnn.inputs.image_files import load_image_bytes
from mlx_rcnn.serving.brush import encode_brush
from mlx_rcnn.serving.limits import Limits
from recipe import GOLDENS
from serving_kit import PHOTO, TellingModel, application, png, save_model

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """<View>
  <Image name="pic" value="$photo"/>
  <RectangleLabels name="box" toName="pic" model_score_threshold="0.3">
    <Label value="Ant"/><Label value="Insect" predicted_values="bee/fly, fly"/>
  </RectangleLabels>
  <PolygonLabels name="outline" toName="pic"><Label value="Ant"/></PolygonLabels>
  <BrushLabels name="brush" toName="pic"><Label value="Ant"/></BrushLabels>
</View>"""

ONE = '<View><Image name="i" value="$image"/><RectangleLabels name="l" toName="i"/></View>'


def uri(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def request(*images: str, config: str = CONFIG, key: str = "photo") -> dict[str, Any]:
    """As Label Studio's ml/api_connector.py builds it."""
    tasks = [{"id": i, "data": {key: image}, "meta": {}} for i, image in enumerate(images)]
    return {
        "tasks": tasks,
        "project": "7.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None},
    }


@pytest.fixture(scope="module")
def client() -> Any:
    with application(TellingModel, Limits(max_pixels=100_000), "run/best") as running:
        yield TestClient(running.app, base_url="http://127.0.0.1:9090")


def test_a_project_is_set_up(client: Any) -> None:
    assert client.get("/health").json()["status"] == "UP"
    setup = {
        "project": "7.1700000000",
        "schema": CONFIG,
        "hostname": "http://localhost:8080",
        "access_token": "secret",
        "extra_params": None,
    }
    assert client.post("/setup", json=setup).json() == {"model_version": "run/best"}
    assert client.get("/versions").json() == {"versions": ["run/best"]}
    event = client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 7}})
    assert event.status_code == 200 and "does not train" in event.json()["status"]


def test_regions_are_percent_of_the_image(client: Any) -> None:
    images = [uri(png(40, 30, 204), "image/png"), uri(png(60, 20, 51), "image/png")]
    answer = client.post("/predict", json=request(*images, config=ONE, key="image")).json()
    # A box of the top left half, "çat", of score grey / 255: 0.8, and 0.2 which is below 0.5.
    first, second = answer["results"]
    assert answer["model_version"] == first["model_version"] == "run/best"
    assert second["result"] == [] and second["score"] == 0.0
    [region] = first["result"]
    assert first["score"] == region["score"] == pytest.approx(0.8, abs=1e-6)
    assert region["value"] == {
        "x": 0.0,
        "y": 0.0,
        "width": 50.0,
        "height": 50.0,
        "rotation": 0,
        "rectanglelabels": ["çat"],
    }
    assert (region["original_width"], region["original_height"]) == (40, 30)
    assert (region["from_name"], region["to_name"], region["type"]) == ("l", "i", "rectanglelabels")


def drawn(points: list[list[float]], height: int, width: int) -> np.ndarray:
    """The pixels whose centres a polygon holds, by crossings."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.zeros((height, width), bool)
    ends = np.array(points) * [width / 100, height / 100]
    for (x1, y1), (x2, y2) in zip(ends, np.roll(ends, -1, 0), strict=True):
        if abs(y1 - y2) > 1e-6:
            crosses = (np.minimum(y1, y2) <= y) & (y < np.maximum(y1, y2))
            inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def test_masks_come_back_from_outlines_and_brushes(tmp_path: Path) -> None:
    folder = save_model("mask_rcnn", tmp_path / "model")
    with application(lambda: mlx_rcnn.load(folder)) as running:
        client = TestClient(running.app, base_url="http://localhost")
        [result] = client.post("/predict", json=request(uri(PHOTO))).json()["results"]
    [found] = mlx_rcnn.load(folder).predict(load_image_bytes(PHOTO))
    names, scores = np.array(found.names), found["scores"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for region in result["result"]:
        by_kind.setdefault(region["type"], []).append(region)
    boxes = [r["value"]["rectanglelabels"][0] for r in by_kind["rectanglelabels"]]
    wanted = names[np.isin(names, ["ant", "bee/fly"]) & (scores >= 0.3)]
    assert boxes == [{"ant": "Ant", "bee/fly": "Insect"}[name] for name in wanted]
    ants = np.flatnonzero((names == "ant") & (scores >= 0.5))
    assert len(ants) and [int(r["id"][:-1]) for r in by_kind["brushlabels"]] == ants.tolist()
    height, width = found.size
    outlines: dict[int, np.ndarray] = {}
    for region in by_kind["polygonlabels"]:
        number = int(region["id"].split("p")[0])
        part = drawn(region["value"]["points"], height, width)
        outlines[number] = outlines.get(number, np.zeros_like(part)) | part
    for number, region in zip(ants.tolist(), by_kind["brushlabels"], strict=True):
        mask = found["masks"][number]
        assert region["value"]["rle"] == encode_brush(mask)
        np.testing.assert_array_equal(outlines[number], mask)


def test_keypoints_belong_to_their_box(tmp_path: Path) -> None:
    folder = save_model("keypoint_rcnn", tmp_path / "model")
    config = """<View><Image name="i" value="$photo"/><RectangleLabels name="b" toName="i"/>
    <KeyPointLabels name="k" toName="i"><Label value="Nose"/></KeyPointLabels></View>"""

    def load() -> Any:
        return mlx_rcnn.load(folder, keypoint_names=("nose", "a", "b", "c", "d"))

    with application(load) as running:
        client = TestClient(running.app, base_url="http://localhost")
        [result] = client.post("/predict", json=request(uri(PHOTO), config=config)).json()[
            "results"
        ]
    [found] = load().predict(load_image_bytes(PHOTO))
    rows = np.flatnonzero(found["scores"] >= 0.5)
    points = [r for r in result["result"] if r["type"] == "keypointlabels"]
    assert [r["parentID"] for r in points] == [str(row) for row in rows] and len(rows)
    height, width = found.size
    got = [(r["value"]["x"] * width / 100, r["value"]["y"] * height / 100) for r in points]
    np.testing.assert_allclose(got, found["keypoints"][rows, 0, :2], atol=1e-3)
    assert {r["value"]["keypointlabels"][0] for r in points} == {"Nose"}


def test_a_brush_is_label_studios_own() -> None:
    for name, wanted in json.loads((GOLDENS / "brush.json").read_text()).items():
        seed, height, width, share = name.split()
        random = np.random.default_rng(int(seed)).random((int(height), int(width)))
        assert bytes(encode_brush(random < float(share))) == base64.b64decode(wanted), name


TWO = """<View><Image name="a" value="$one"/><Image name="b" value="$two"/>
<RectangleLabels name="x" toName="a"/><RectangleLabels name="y" toName="b"/></View>"""


def test_a_task_of_two_images(client: Any) -> None:
    body = request(config=TWO)
    body["tasks"] = [{"data": {"one": uri(png(value=250)), "two": uri(png(value=240))}}]
    [result] = client.post("/predict", json=body).json()["results"]
    assert [(r["from_name"], r["to_name"]) for r in result["result"]] == [("x", "a"), ("y", "b")]


LAUGHS = """<!DOCTYPE v [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><View>&b;</View>"""
BAD = {
    "a path": (request("/data/upload/7/a.jpg"), 422, "opens no path and no URL"),
    "a file URL": (request("file:///etc/passwd"), 422, "opens no path and no URL"),
    "a URL": (request("http://127.0.0.1:1/a.jpg"), 422, "opens no path and no URL"),
    "a bucket": (request("s3://bucket/a.jpg"), 422, "opens no path and no URL"),
    "another data URI": (request("data:text/html;base64,aGk="), 422, "opens no path"),
    "no base64": (request("data:image/png;base64,$$$"), 400, "not base64"),
    "no image": (request(uri(b"hello")), 415, "not an image"),
    "a huge image": (request(uri(png(400, 300))), 413, "pixels"),
    "another key": (request(uri(PHOTO), key="picture"), 400, "data['photo']"),
    "no task": ({"tasks": ["photo.jpg"]}, 400, "data['image']"),
    "no tasks": ({"task": []}, 400, "JSON without tasks"),
    "no object": ([1, 2], 400, "a JSON list"),
    "no XML": (request(uri(PHOTO), config="<View"), 400, "not well-formed"),
    "laughs": (request(uri(PHOTO), config=LAUGHS), 400, "entity"),
    "no control": (request(uri(PHOTO), config="<View/>"), 400, "RectangleLabels"),
    "a threshold": (request(uri(PHOTO), config=CONFIG.replace("0.3", "x")), 400, "config"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str, client: Any, monkeypatch: Any) -> None:
    body, status, words = BAD[name]

    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("something of the caller's was opened")

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr("urllib.request.urlopen", opened)
    answer = client.post("/predict", json=body)
    text = answer.json()["error"]
    assert answer.status_code == status and words in text and "\n" not in text


@pytest.mark.parametrize("body", [b"", b"[1", b"\xff\xfe", b"[" * 100_000])
def test_no_json(body: bytes, client: Any) -> None:
    for path in ("/predict", "/setup", "/webhook"):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and "error" in answer.json()


def test_the_tasks_of_the_documentation(client: Any, tmp_path: Path, monkeypatch: Any) -> None:
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("b.jpg", "a.jpg"):
        Path("photos", name).write_bytes(PHOTO)
    exec(code, {})
    tasks = json.loads(Path("tasks.json").read_text())
    assert [task["data"]["name"] for task in tasks] == ["a.jpg", "b.jpg"]
    body = {**request(config=ONE), "tasks": tasks}
    assert len(client.post("/predict", json=body).json()["results"]) == 2


def test_no_tasks_is_no_results(client: Any) -> None:
    assert client.post("/predict", json=request()).json()["results"] == []
