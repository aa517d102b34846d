"""The page of a run: its numbers, its charts, and that it needs nothing else."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tiny
from mlx_rcnn.data import ShapesDataset, open_dataset, write_coco
from mlx_rcnn.training import fit, write_summary
from mlx_rcnn.training.loggers import RunStart
from mlx_rcnn.training.summary import about_run
from mlx_rcnn.training.summary_page import page
from mlx_rcnn.training.svg import HEIGHT, WIDTH, chart


class Checked(HTMLParser):
    """Text and attributes of a page whose elements are all closed."""

    VOID = ("meta", "img")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text, self.links = [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("path", "polyline")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def lines():
    """Two epochs of two steps; the first is the better one."""
    for step in range(1, 5):
        epoch = (step + 1) // 2
        yield {"kind": "step", "step": step, "epoch": epoch, "total_loss": 4.0 / step, "lr": 0.01,
               "norm": None, "images_per_s": 8.0}  # fmt: skip
        if step % 2 == 0:
            scores = {"AP": 0.5 / epoch, "AP50": None, "per_class": {"a<b>": {"AP": 0.25}}}
            yield {"kind": "epoch", "step": step, "epoch": epoch, "seconds": 1800.0,
                   "images_per_s": 7.5, "peak_memory": 2**30, "metrics": scores}  # fmt: skip


def test_a_chart_by_hand():
    svg = ET.fromstring(chart("a & b", {"x<y": [(0, 0), (5, 10), (10, 5)]}, "step", dots=True))
    # The frame is 62 to 548 across and 260 to 30 up; the axes go from 0 to 10.
    assert (WIDTH, HEIGHT) == (560, 300)
    line = svg.find("polyline")
    assert line.get("points") == "62.0,260.0 305.0,30.0 548.0,145.0"
    texts = [node.text for node in svg.iter() if node.text]
    assert "a & b" in texts and "x<y" in texts and "x<y 10" in texts
    assert [t for t in texts if t in ("0", "2", "4", "6", "8", "10")] == [
        "0",
        "2",
        "4",
        "6",
        "8",
        "10",
    ] * 2
    long = chart("t", {"n": [(i, float(i % 2)) for i in range(10_000)]}, "step")
    points = ET.fromstring(long).find("polyline").get("points").split()
    assert len(points) == 400  # each the mean of 25 steps
    flat = ET.fromstring(chart("t", {"n": [(1, 3.0)]}, "step"))  # one point: one dot
    assert flat.find("circle") is not None
    assert chart("t", {"n": []}, "step") == ""


def test_the_page_of_a_record_alone():
    text = page("run <1>", list(lines()), {}, {})
    found = Checked(text)
    assert "run <1>" in found.text and found.links == []
    assert "2 epochs, 4 steps, 1 h 0 min of training" in found.text
    assert "best epoch: 1, AP 0.5000" in found.text and "a<b>" in found.text
    rows = re.findall(r'<tr( class="best")?><td class="n">(\d)</td>', text)
    assert rows == [(' class="best"', "1"), ("", "2")]
    assert "1.07" in found.text  # GB
    titles = re.findall(r'aria-label="([^"]+)"', text)
    assert titles == ["losses (mean of 20 steps)", "validation", "learning rate", "images a second"]
    assert Checked(page("nothing yet", [], {}, {})).text.startswith("nothing yet")


def test_a_run_writes_it_and_it_can_be_made_again(tmp_path: Path):
    sets = [open_dataset(write_coco(tiny.shapes(n, seed), tmp_path / f"{n}")) for n, seed in
            ((4, 0), (2, 1))]  # fmt: skip
    folder = tmp_path / "run"
    config = replace(tiny.CONFIG, epochs=1, metric="AP50")
    fit(tiny.build(), *sets, config, folder)
    text = (folder / "summary.html").read_text()
    found = Checked(text)
    assert all(link.startswith("data:image/jpeg;base64,") for link in found.links)
    assert len(found.links) == 2 and "found after epoch 1" in found.text
    assert "1 of 1 epochs, 2 steps" in found.text and "best epoch: 1, AP50 " in found.text
    about = json.loads((folder / "run.json").read_text())
    objects = about["data"]["training"]["objects"]
    assert sum(objects.values()) == sum(len(sets[0].target(i)["labels"]) for i in range(4))
    for name, count in objects.items():
        of = about["data"]["validation"]["objects"][name]
        assert f'<td>{name}</td><td class="n">{count}</td><td class="n">{of}</td>' in text
    assert '<td>metric</td><td><b class="set">AP50</b></td>' in text  # not the default
    assert "<td>drops</td><td>0.75</td>" in text and about["versions"]["mlx"] in found.text
    (folder / "summary.html").unlink()
    assert write_summary(folder) == folder / "summary.html"
    assert (folder / "summary.html").read_text() == text
    for name in ("run.json", "samples/targets.png"):
        (folder / name).unlink()
    write_summary(folder)
    assert len(Checked((folder / "summary.html").read_text()).links) == 1
    with pytest.raises(FileNotFoundError):
        write_summary(tmp_path)


def test_without_it(tmp_path: Path):
    tiny.train(tmp_path / "run", replace(tiny.CONFIG, epochs=1, log=("none",)))
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not left & {"summary.html", "run.json", "targets.png"}


def test_what_is_said_of_a_run():
    about = about_run(tiny.build("mask_rcnn"), ShapesDataset(3, (32, 32)), None)
    assert about["data"] == {"training": {"images": 3}}  # counting would draw them all
    assert about["usual_metric"] == "segm_AP" and about["model"] == "MaskRCNN"
    assert RunStart(Path(), {}, []).lines == []
