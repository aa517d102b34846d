"""The server's answers: JSON, files, refusals, and who is let in."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import mlx_rcnn
from mlx_rcnn.cli.main import main
from mlx_rcnn.inputs.image_files import load_image_bytes
from mlx_rcnn.ops.rle import decode_rle
from mlx_rcnn.outputs.draw import class_color
from mlx_rcnn.serving.limits import Limits
from serving_kit import NAMES, PHOTO, TellingModel, application, png, save_model
from small import PHOTOS

LIMITS = Limits(max_bytes=200_000, max_pixels=500_000)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: save_model(kind, folder / kind) for kind in ("mask_rcnn", "keypoint_rcnn")}


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Any:
    """A Mask R-CNN."""
    with application(lambda: mlx_rcnn.load(models["mask_rcnn"])) as running:
        yield TestClient(running.app, base_url="http://localhost")


@pytest.fixture(scope="module")
def client() -> Any:
    """A model that finds one thing, behind small limits."""
    with application(TellingModel, LIMITS) as running:
        yield TestClient(running.app, base_url="http://localhost")


def check_schema(client: Any, content: Any, name: str = "Found") -> None:
    document = client.get("/schema").json()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema, jsonschema.Draft202012Validator)


def test_answers_are_those_of_predict(served: Any, models: dict[str, Path]) -> None:
    files = {path.name: path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))}
    model = mlx_rcnn.load(models["mask_rcnn"])
    # Twice each and all at once, so that they come in batches of several sizes.
    names = [*files, *files]
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(
            pool.map(
                lambda name: served.post(f"/predict?name={name}", content=files[name]).json(), names
            )
        )
    for name, answer in zip(names, answers, strict=True):
        [alone] = model.predict(load_image_bytes(files[name]))
        check_schema(served, answer)
        height, width = alone.size
        assert answer["image"] == {"name": name, "width": width, "height": height}
        rows = answer["detections"]
        assert [row["name"] for row in rows] == alone.names
        assert [row["label"] for row in rows] == alone["labels"].tolist()
        np.testing.assert_allclose([row["box"] for row in rows], alone["boxes"], atol=2e-3)
        np.testing.assert_allclose([row["score"] for row in rows], alone["scores"], atol=1e-5)
        masks = np.array([decode_rle(row["mask"]) for row in rows])
        assert np.mean(masks != alone["masks"]) < 1e-4


def test_one_alone_is_equal_to_the_digits_said(served: Any, models: dict[str, Path]) -> None:
    answer = served.post("/predict?top_k=7&threshold=0.1", files={"image": ("a.jpg", PHOTO)}).json()
    model = mlx_rcnn.load(models["mask_rcnn"])
    [alone] = model.predict(load_image_bytes(PHOTO), score_thresh=0.1, top_k=7)
    rows = answer["detections"]
    assert answer["image"]["name"] == "a.jpg" and len(rows) == len(alone) == 7
    np.testing.assert_allclose([row["box"] for row in rows], alone["boxes"], rtol=0, atol=6e-5)
    np.testing.assert_allclose([row["score"] for row in rows], alone["scores"], rtol=0, atol=6e-9)


def test_keypoints(models: dict[str, Path]) -> None:
    with application(lambda: mlx_rcnn.load(models["keypoint_rcnn"])) as running:
        client = TestClient(running.app, base_url="http://localhost")
        answer = client.post("/predict?top_k=3", content=PHOTO).json()
        check_schema(client, answer)
        about = client.get("/model").json()
        picture = client.post("/predict?format=picture&threshold=0", content=PHOTO)
    [alone] = mlx_rcnn.load(models["keypoint_rcnn"]).predict(load_image_bytes(PHOTO), top_k=3)
    for name in ("keypoints", "keypoints_scores"):
        found = [row[name] for row in answer["detections"]]
        np.testing.assert_allclose(found, alone[name], rtol=0, atol=6e-5)
    assert about["keypoint_thresh"] == 2.0 and about["masks"] is False
    assert Image.open(io.BytesIO(picture.content)).size == alone.size[::-1]


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo", "labelme", "cvat", "csv", "crops"])
def test_files_are_those_of_predict_save(
    kind: str, served: Any, models: dict[str, Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my photo.jpg").write_bytes(PHOTO)
    words = ("predict", "my photo.jpg", "--model", models["mask_rcnn"], "--out", "out")
    words += ("--save", kind, "--confidence", "0.3", "--no-images")
    assert main([str(word) for word in words]) == 0
    query = {"format": kind, "threshold": "0.3", "name": "../my photo.JPEG"}
    answer = served.post("/predict", params=query, content=PHOTO)
    assert answer.status_code == 200
    if kind == "csv":
        assert answer.content == Path("out/detections.csv").read_bytes()
        return
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        got = {name: archive.read(name) for name in archive.namelist()}
    root = Path("out") / kind
    wanted = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    assert got == wanted and len(got) > 1
    assert f'filename="my photo_{kind}.zip"' in answer.headers["content-disposition"]


def test_the_picture_is_that_of_predict(
    served: Any, models: dict[str, Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(PHOTO)
    assert main(["predict", "a.jpg", "--model", str(models["mask_rcnn"]), "--out", "out"]) == 0
    answer = served.post("/predict?format=picture&name=a.jpg", content=PHOTO)
    assert answer.content == Path("out/a.jpg").read_bytes()
    assert answer.headers["content-type"] == "image/jpeg"


def test_what_is_served(client: Any) -> None:
    about = client.get("/model").json()
    assert [(c["label"], c["name"]) for c in about["classes"]] == list(enumerate(NAMES))[1:]
    assert about["classes"][0]["color"] == "#{:02x}{:02x}{:02x}".format(*class_color(1))
    assert about["formats"][:2] == ["json", "picture"] and about["limits"]["bytes"] == 200_000
    health = client.get("/health").json()
    assert health["status"] == "UP" and health["model_class"] == "TellingModel"
    assert health["requests"] == 0 and set(health) == {
        *("status", "model", "model_class", "requests", "answered")
    }
    document = client.get("/schema").json()
    assert document["openapi"].startswith("3.1") and "/predict" in document["paths"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({"content": b""}, 400, "empty"),
    "text": ({"content": b"hello"}, 415, "not an image"),
    "text, said so": (
        {"content": b"hello", "headers": {"Content-Type": "text/plain"}},
        415,
        "text/plain",
    ),
    "PostScript": ({"content": EPS}, 415, "PostScript"),
    "HEIC": ({"content": b"\0\0\0\x18ftypheic" + bytes(100)}, 415, "HEIC"),
    "truncated": ({"content": PHOTO[:6000]}, 422, "truncated"),
    "a damaged PNG": ({"content": bomb(600)}, 422, "cannot read"),
    "many pixels": ({"content": bomb(900)}, 413, "900 x 900 pixels, more than 0.5 million"),
    "a bomb": ({"content": bomb(60000)}, 413, "pixels"),
    "many bytes": ({"content": bytes(200_001)}, 413, "larger than"),
    "a form without a file": ({"files": {"image": (None, "photo.jpg")}}, 400, "no file"),
    "two files": ({"files": [("a", png()), ("b", png())]}, 400, "Too many files"),
    "half a form": ({"content": b"--x\r\nContent-Disp", "headers": FORM}, 400, "form"),
    "no form": ({"content": b"hello", "headers": FORM}, 400, "form"),
    "no boundary": (
        {"content": b"a", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "a query misspelt": ({"content": png(), "params": {"treshold": 1}}, 400, "did you mean"),
    "a threshold of 2": ({"content": png(), "params": {"threshold": 2}}, 400, "from 0 to 1"),
    "not a number": ({"content": png(), "params": {"threshold": "nan"}}, 400, "from 0 to 1"),
    "top_k of 0": ({"content": png(), "params": {"top_k": 0}}, 400, "at least 1"),
    "a format unknown": ({"content": png(), "params": {"format": "coca"}}, 400, "mean 'coco'"),
    "a model that fails": ({"content": png(value=13)}, 500, "the model failed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str, client: Any, capfd: Any) -> None:
    request, status, words = BAD[name]
    answer = client.post("/predict", **request)
    content = answer.json()
    check_schema(client, content, "Error")
    assert answer.status_code == status and words in content["error"]
    assert "\n" not in content["error"] and len(content["error"]) < 250
    # The model's own words go to the terminal, on one line; nothing of the rest does.
    shown = capfd.readouterr().err
    assert shown == ("mlx_rcnn: error: thirteen brings bad luck\n" if status == 500 else "")
    assert client.post("/predict", content=png()).status_code == 200  # it lives


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("GET", "/../../etc/passwd", 404), ("GET", "/page.html", 404)],
)
def test_no_other_pages(method: str, path: str, status: int, client: Any) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status and "error" in answer.json()


HOSTS = {
    "localhost": 200,
    "localhost:8000": 200,
    "127.0.0.1:8000": 200,
    "[::1]:8000": 200,
    "192.168.1.7": 200,
    "Box.Local:80": 200,
    "evil.example": 403,
    "localhost.evil.example": 403,
    "127.0.0.1.evil.example:8000": 403,
    "": 403,
}


@pytest.mark.parametrize("host", HOSTS)
def test_dns_rebinding(host: str, client: Any) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == HOSTS[host]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:1"}, 403),  # another program's page on this machine
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_sites(headers: dict[str, str], status: int, client: Any) -> None:
    assert client.post("/predict", content=png(), headers=headers).status_code == status
    assert client.post("/webhook", content=b"{}", headers=headers).status_code == status


def test_the_page_is_whole_and_fenced_in(client: Any) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2
    assert "unsafe" not in policy and "connect-src 'self'" in policy
    text = answer.text
    assert text.count("http") == text.count("http://www.w3.org/2000/svg")  # names, no addresses
    assert "src=" not in text and "@import" not in text and "url(" not in text
    assert "set-cookie" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers(client: Any) -> None:
    for answer in (client.get("/nope"), client.post("/predict"), client.get("/model")):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_orientation_is_followed(client: Any) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(file, "JPEG", exif=exif)
    image = client.post("/predict", content=file.getvalue()).json()["image"]
    assert (image["width"], image["height"]) == (32, 64)


def test_names_of_files_are_harmless() -> None:
    from mlx_rcnn.cli.serve.files import file_name

    assert file_name("../../etc/passwd", "PNG") == "passwd.png"
    assert file_name("C:\\x\\a:b?.JPG", "JPEG") == "a_b_.jpg"
    assert file_name("...", "WEBP") == "image.webp" and file_name("", "TIFF") == "image.tif"
    assert len(file_name("x" * 999, "PNG")) == 84


def test_a_model_without_names_writes_no_annotations() -> None:
    def load() -> TellingModel:
        model = TellingModel()
        model.class_names = None
        return model

    with application(load) as running:
        client = TestClient(running.app, base_url="http://localhost")
        assert client.get("/model").json()["formats"] == ["json", "picture", "csv", "crops"]
        assert client.post("/predict?format=coco", content=png()).status_code == 400
        table = client.post("/predict?format=csv&threshold=0", content=png()).text
    assert json.dumps(table.splitlines()[1]).startswith('"image.png,3,class 3,')
