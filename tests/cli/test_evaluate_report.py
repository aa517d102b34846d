"""``mlx_rcnn evaluate --report``: the files, the comparison, and one line for what is wrong."""

import errno
import json
import tempfile
import types
from html.parser import HTMLParser
from pathlib import Path

import mlx.nn as nn
import numpy as np
import pytest

import mlx_rcnn.checkpoints.load
import mlx_rcnn.evaluation.report.write as write
from annotated import make_coco, save_image
from mlx_rcnn.cli.main import main

NAMES = ("__background__", "cat", "dog")
BOX = (10, 20, 50, 60)


class Model(nn.Module):
    """Finds a cat (0.9) in every image, and a dog (0.8) where there is one if it is good."""

    def __init__(self, good):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.class_names, self.good = NAMES if good else (NAMES[0], "dog", "cat"), good
        self.numbers = {name: label for label, name in enumerate(self.class_names)}
        self.config = types.SimpleNamespace(num_classes=3, image_levels=None)

    def predict(self, images, *, score_thresh=None):
        rows = [(*BOX, 0.9, "cat"), (*BOX, 0.8, "dog")][: 1 + self.good]
        return [
            {
                "boxes": np.array([row[:4] for row in rows], np.float32),
                "scores": np.array([row[4] for row in rows], np.float32),
                "labels": np.array([self.numbers[row[5]] for row in rows], np.int32),
            }
            for _ in images
        ]


@pytest.fixture
def data(monkeypatch, tmp_path):
    """Image a.jpg has a cat, b.jpg a dog at the same place."""
    monkeypatch.chdir(tmp_path)
    load = lambda source, dtype=None: Model(source == "good")  # noqa: E731
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)
    return make_coco(Path("data"))


def evaluate(*arguments, model="good"):
    return main(["evaluate", "--data", "data", *map(str, arguments), "--model", model])


class Page(HTMLParser):
    """What is in a page: text, tags, and whatever it would fetch."""

    def __init__(self, path):
        super().__init__()
        self.words, self.tags, self.fetched, self.open = [], [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        fetched = [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        self.fetched += [v for v in fetched if not v.startswith(("#", "data:image/"))]
        if tag not in ("meta", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "rect"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_a_report(data, capsys):
    assert evaluate("--report", "deep/out", "--json", "found.json") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == ["report: deep/out/index.html", "results: found.json"]
    assert sorted(p.name for p in Path("deep/out").iterdir()) == ["index.html", "report.json"]
    report = json.loads(Path("deep/out/report.json").read_text())
    boxes = report["analyses"]["bbox"]
    # Cats are all right, then one wrong in image b; of dogs the wrong one comes first.
    assert report["metrics"]["AP"] == boxes["AP"] == 0.75
    assert boxes["best"] == {
        "score_thresh": pytest.approx(0.8),
        "precision": 0.5,
        "recall": 1.0,
        "F1": pytest.approx(2 / 3, abs=1e-6),
    }
    assert boxes["confusion"]["cells"] == [
        ["", "cat", 1],
        ["", "dog", 1],
        ["cat", "cat", 1],
        ["dog", "dog", 1],
    ]
    assert [row["image_id"] for row in boxes["images"]] == [4, 9]
    assert report["analyses"].keys() == {"bbox"} and "against" not in report
    page = Page("deep/out/index.html")
    assert page.fetched == [] and page.tags.count("img") == 2
    assert "the best threshold is a score of 0.800 : precision 50.0, recall 100.0" in page.text
    assert "a.jpg 1 object found, 1 wrong (1 class), 0 not found; F1 66.7" in page.text


def test_without_it_nothing_is_written(data, capsys):
    evaluate()
    before = {p.name for p in Path().iterdir()}
    assert before == {"data"} and "report" not in capsys.readouterr().out


@pytest.mark.parametrize("of_file", [False, True])
def test_against(data, capsys, of_file):
    """Another model, whose classes have other numbers, or its results."""
    other = "bad"
    if of_file:
        assert evaluate("--json", "bad.json", model="bad") == 0
        other = "bad.json"
    assert evaluate("--report", "out", "--against", other) == 0
    assert capsys.readouterr().out.count("report: out/index.html") == 1
    report = json.loads(Path("out/report.json").read_text())
    against = report["against"]
    assert against["model"] == other
    # Cats the same, dogs found (behind a wrong one) or not.
    difference = against["difference"]["bbox"]
    assert against["metrics"]["AP"] == 0.5 and difference["AP"] == 0.25
    assert {k: v["AP"] for k, v in difference["per_class"].items()} == {"cat": 0, "dog": 0.5}
    [better, worse] = difference["images"]  # b.jpg, and a.jpg, where the dog is made up
    assert (better["image_id"], worse["image_id"]) == (9, 4)
    assert better["one"]["right"] == 1 and better["other"]["right"] == 0
    assert worse["one"]["wrong"] == 1 and worse["other"]["wrong"] == 0
    page = Page("out/index.html")
    assert f"good against {other}" in page.text and "Better and worse" in page.text
    assert "is better on 1 image and worse on 1 of 2" in page.text
    # Two of the worst, and both models' of the better and the worse one.
    assert page.tags.count("img") == 2 + 2 * 2 and page.fetched == []


def test_from_a_results_file(data, capsys):
    evaluate("--json", "found.json")
    evaluate("--report", "one")
    arguments = ["--data", "data", "--predictions", "found.json", "--report", "two"]
    assert main(["evaluate", *arguments, "--against", "bad"]) == 0
    one, two = (json.loads(Path(n, "report.json").read_text()) for n in ("one", "two"))
    assert one["analyses"] == two["analyses"]
    assert two["against"]["difference"]["bbox"]["AP"] == 0.25


def test_an_image_that_can_no_longer_be_read_is_not_compared(data, capsys, monkeypatch):
    evaluate("--json", "bad.json", model="bad")
    evaluate("--json", "good.json")
    image = Path("data/images/a.jpg")

    def load(source, dtype=None):  # the data is open by then
        image.unlink()
        return Model(source == "good")

    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)
    assert evaluate("--report", "out", "--against", "bad.json") == 0
    assert "no such image: data/images/a.jpg: image left out" in capsys.readouterr().err
    report = json.loads(Path("out/report.json").read_text())
    [row] = report["against"]["difference"]["bbox"]["images"]
    assert row["image_id"] == 9 and report["against"]["metrics"]["images"] == 1
    assert report["metrics"]["unreadable"] == 1
    assert "left out, as unreadable: 1 image" in Page("out/index.html").text
    # The other way round it is an error: the file has all of them, and the model one fewer.
    save_image(image)
    arguments = ["--data", "data", "--predictions", "good.json", "--report", "o"]
    assert main(["evaluate", *arguments, "--against", "bad"]) == 1
    words = "--report: the other model's detections are of 1 of the 2 images: expected all of them"
    assert f"{words}; the detections are kept: --predictions good.json" in capsys.readouterr().err


def error_of(capsys, *arguments, code=2, model="good"):
    assert evaluate(*arguments, model=model) == code
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("mlx_rcnn: error: ")
    return last.removeprefix("mlx_rcnn: error: ")


def test_what_cannot_be_is_said_before_work_starts(data, capsys, monkeypatch):
    def predict(self, images, **options):
        raise AssertionError("predicted")

    monkeypatch.setattr(Model, "predict", predict)
    Path("file").touch()
    Path("site").mkdir()
    Path("site/index.html").write_text("<p>My site")
    Path("notes").mkdir()
    Path("notes/report.json").write_text("{}")
    Path("bad.json").write_text("{}")
    for arguments, words in (
        (["--report", "file"], "--report file is a file: expected a folder"),
        (["--report", "file/x"], "cannot write to file/x: file is not a folder"),
        (["--report", "data"], "--report data is the folder of the data: expected another"),
        (["--report", "site"], "--report site/index.html is there and is not of a report"),
        (["--report", "notes"], "--report notes/report.json is there and is not of a report"),
        (["--report", "out", "--metric", "voc"], "--report goes with --metric coco: --metric voc"),
        (["--against", "bad"], "--against goes with --report DIR"),
        (["--report", "o", "--against", "no.json"], "--against no.json: No such file or directory"),
        (["--report", "o", "--against", "bad.json"], "--against bad.json holds a dict, expected"),
    ):
        words = words.replace("file is not", f"{Path('file').absolute()} is not")
        assert error_of(capsys, *arguments).startswith(words)
    assert main(["evaluate", "--data", str(data), "--model", "good", "--report", "data"]) == 2
    assert "is the folder of the data" in capsys.readouterr().err
    assert Path("site/index.html").read_text() == "<p>My site"
    assert not Path("out").exists() and not Path("o").exists()


def test_a_model_that_does_not_fit_is_named(data, capsys, monkeypatch):
    def load(source, dtype=None):
        model = Model(source == "good")
        if source == "birds":
            model.class_names = ("__background__", "owl", "hen")
        elif source != "good":
            raise ValueError(f"no model {source!r}")
        return model

    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)
    words = error_of(capsys, "--report", "out", "--against", "birds")
    assert words.startswith("--against birds: the data has classes that the model lacks (objects)")
    words = error_of(capsys, "--report", "out", "--against", "x")
    assert words == "--against x: no model 'x'"


def test_a_full_disk_keeps_the_detections(data, capsys, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("kept")))
    evaluate("--report", "old")
    before = [p.read_bytes() for p in sorted(Path("old").iterdir())]

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlx_rcnn.files.flush", full)
        patch.setattr(
            "mlx_rcnn.cli.evaluate.command.write_results", lambda path, _: path.write_text("[]")
        )
        for folder in ("old", "new"):
            words = error_of(capsys, "--report", folder, code=1)
            start, _, rest = words.partition("; ")
            assert start == f"cannot write --report {folder}: No space left on device"
            kept = Path(rest.split()[5])
            assert rest.startswith("the detections are kept: --predictions /") and kept.is_file()
    assert [p.read_bytes() for p in sorted(Path("old").iterdir())] == before
    assert not Path("new").exists() and sorted(p.name for p in Path().iterdir()) == ["data", "old"]


def test_an_earlier_report_is_replaced(data):
    evaluate("--report", "out", model="bad")
    Path("out/notes.txt").write_text("mine")
    evaluate("--report", "out")
    assert json.loads(Path("out/report.json").read_text())["model"] == "good"
    assert Path("out/notes.txt").read_text() == "mine" and len(list(Path("out").iterdir())) == 3


def test_names_of_any_kind_and_images_that_are_gone(data, capsys, monkeypatch):
    content = json.loads(Path("data/annotations.json").read_text())
    (name,) = {c["name"] for c in content["categories"] if c["name"] == "cat"}
    evil = "<script>alert('1')</script> & \"猫\"\u202e"
    for category in content["categories"]:
        category["name"] = evil if category["name"] == name else category["name"]
    Path("data/annotations.json").write_text(json.dumps(content))
    monkeypatch.setattr(
        mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: renamed(Model(True), evil)
    )
    found = write.figures

    def gone(shown, ids):  # between prediction and report
        Path("data/images/a.jpg").unlink()
        return found(shown, ids)

    monkeypatch.setattr(write, "figures", gone)
    assert evaluate("--report", "out") == 0
    page = Page("out/index.html")
    assert page.tags.count("script") == 1 and page.tags.count("img") == 1
    assert "<script>alert('1')</script> & \"猫\"" in page.text and "no such image" in page.text
    report = json.loads(Path("out/report.json").read_text())
    assert evil in report["analyses"]["bbox"]["per_class"]


def renamed(model, name):
    model.class_names = ("__background__", name, "dog")
    return model


def test_data_without_objects(data, capsys):
    content = json.loads(Path("data/annotations.json").read_text())
    content["annotations"] = []
    Path("data/annotations.json").write_text(json.dumps(content))
    assert evaluate("--report", "out") == 0
    report = json.loads(Path("out/report.json").read_text())
    boxes = report["analyses"]["bbox"]
    assert boxes["AP"] is None and boxes["best"]["precision"] == 0
    assert boxes["best"]["recall"] is None and boxes["errors"]["background"]["count"] == 4
    assert Page("out/index.html").fetched == []
