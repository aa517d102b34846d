"""Datasets with proposals: from files and mappings, by name, best first, cut to their images."""

import json

import numpy as np
import pytest

from annotated import make_coco, make_voc
from mlx_rcnn.data import (
    Compose,
    HorizontalFlip,
    Loader,
    Proposed,
    ScaleJitterCrop,
    open_dataset,
    read_proposal_results,
    with_proposals,
    write_proposals,
)
from mlx_rcnn.data.divide import divide

A = np.array([[1, 2, 30, 40], [10, 20, 50, 60]], np.float32)
B = np.array([[-5, 0, 200, 80]], np.float32)
EMPTY = np.zeros((0, 4), np.float32)


@pytest.fixture
def voc(tmp_path):
    """Images a, b, c of 80 x 100 (height, width) with one object each."""
    return open_dataset(make_voc(tmp_path / "voc"))


def test_each_image_has_its_own(tmp_path, voc):
    path = tmp_path / "p.npz"
    write_proposals(path, {"b.jpg": B, "c.jpg": EMPTY, "a.jpg": A, "other.jpg": A})
    data = with_proposals(voc, path)
    assert data.target(0)["proposals"].tolist() == A.tolist()
    assert data[1].target["proposals"].tolist() == [[0, 0, 100, 80]]  # cut to the image
    assert data.target(2)["proposals"].shape == (0, 4)
    for i in range(3):
        assert data.target(i)["proposals"].dtype == np.float32
        np.testing.assert_array_equal(data.target(i)["boxes"], voc.target(i)["boxes"])
    # What is given is not changed, nor can a sample change the dataset.
    assert "proposals" not in voc.target(0)
    data.target(0)["proposals"][:] = 0
    assert data.target(0)["proposals"].tolist() == A.tolist()
    assert data.ground_truth(0) == voc.ground_truth(0)
    # Other labels and parts of it have the same ones.
    renamed = data.with_classes(("__background__", "dog", "cat"))
    assert renamed.target(0)["proposals"].tolist() == A.tolist()
    assert "proposals" in divide(data, 0.4)[0].target(0)


def test_the_best_come_first(voc):
    rows = np.repeat(A[:1], 4, axis=0) + np.arange(4, dtype=np.float32)[:, None]
    scores = np.array([0.5, 0.9, 0.5, 0.7], np.float32)
    source = {"a.jpg": Proposed(rows, scores), "b.jpg": rows, "c.jpg": rows}
    data = with_proposals(voc, source, limit=3)
    # Those of one score stay in their order; without scores all do.
    assert data.target(0)["proposals"].tolist() == rows[[1, 3, 0]].tolist()
    assert data.target(1)["proposals"].tolist() == rows[:3].tolist()
    assert len(with_proposals(voc, source, None).target(1)["proposals"]) == 4
    with pytest.raises(ValueError, match="limit=0"):
        with_proposals(voc, source, 0)


def test_images_without_an_entry(tmp_path, voc):
    path = tmp_path / "p.npz"
    write_proposals(path, {"b.jpg": B, "x.jpg": A})
    with pytest.raises(
        ValueError, match=r"p\.npz: 2 of 3 images have no proposals, first .*a\.jpg"
    ):
        with_proposals(voc, path)
    data = with_proposals(voc, path, allow_missing=True)
    assert [len(data.target(i)["proposals"]) for i in range(3)] == [0, 1, 0]
    with pytest.raises(ValueError, match="3 of 3 images have no proposals.*; it has none"):
        with_proposals(voc, {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[5, 5, 9, 9], [120, 5, 130, 9]], r"b\.jpg in .*, row 1: .* outside the image of 100x80"),
        ([[50, 60, 20, 10]], r"b\.jpg.*, row 0: .* these look like x, y, width, height"),
        ([[5, 5, 9]], r"proposals of b\.jpg: got shape \(1, 3\)"),
    ],
)
def test_boxes_that_are_wrong(voc, rows, message):
    with pytest.raises(ValueError, match=message):
        with_proposals(voc, {"a.jpg": A, "b.jpg": rows, "c.jpg": A})


def test_fractions_are_no_pixels(voc):
    fractions = np.array([[0.1, 0.2, 0.5, 1.0]], np.float32)
    with pytest.raises(ValueError, match="expected pixels, not fractions"):
        with_proposals(voc, dict.fromkeys(("a.jpg", "b.jpg", "c.jpg"), fractions))
    # A single small one is a small one.
    with_proposals(voc, {"a.jpg": A, "b.jpg": fractions, "c.jpg": EMPTY})


def test_names_that_repeat(tmp_path):
    make_voc(tmp_path / "one", ("a", "b"))
    make_voc(tmp_path / "two", ("a",))
    data = open_dataset(tmp_path)
    source = {"one/JPEGImages/a.jpg": A, "two/JPEGImages/a.jpg": B, "b.jpg": EMPTY}
    both = with_proposals(data, source)
    of = {str(item.path): both.target(i)["proposals"] for i, item in enumerate(both.items)}
    assert {path[-20:]: len(rows) for path, rows in of.items()} == {
        "one/JPEGImages/a.jpg": 2,
        "one/JPEGImages/b.jpg": 0,
        "two/JPEGImages/a.jpg": 1,
    }
    # Opened alone, a folder still finds its own: the name is the longest end of the path.
    part = with_proposals(open_dataset(tmp_path / "two"), {**source, "a.jpg": A})
    assert len(part.target(0)["proposals"]) == 1
    with pytest.raises(
        ValueError, match=r"'a\.jpg' may be .*one.*two.*expected names with as many"
    ):
        with_proposals(data, {"a.jpg": A, "b.jpg": A})


def results(*rows):
    return [
        {"image_id": i, "category_id": 1, "bbox": list(box), "score": score}
        for i, box, score in rows
    ]


def test_coco_results(tmp_path):
    data = open_dataset(make_coco(tmp_path))  # ids 9 (b.jpg) and 4 (a.jpg)
    path = tmp_path / "results.json"
    rows = results((4, (1, 2, 29, 38), 0.1), (9, (0, 0, 100.5, 80), 1), ("4", (5, 5, 10, 10), 0.9))
    path.write_text(json.dumps([*rows, *results((77, (1, 1, 1, 1), 0.5))]))
    found = with_proposals(data, path)
    by_id = {item.image_id: found.target(i)["proposals"] for i, item in enumerate(found.items)}
    assert by_id[4].tolist() == [[5, 5, 15, 15], [1, 2, 30, 40]]  # by the score
    assert by_id[9].tolist() == [[0, 0, 100, 80]]
    read = read_proposal_results(path, data)
    assert read["a.jpg"].scores.tolist() == [np.float32(0.1), np.float32(0.9)]
    path.write_text(json.dumps(rows[:1]))
    with pytest.raises(ValueError, match=r"1 of 2 images have no proposals, first .*b\.jpg"):
        with_proposals(data, path)
    assert len(with_proposals(data, path, allow_missing=True)) == 2


def test_results_of_voc_have_names_for_ids(tmp_path, voc):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(*((name, (1, 2, 9, 9), 0.5) for name in "abc"))))
    assert with_proposals(voc, path).target(2)["proposals"].tolist() == [[1, 2, 10, 11]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"images": []}', "holds a dict, expected a list"),
        ("[3]", "entry 0 is a int, expected a result"),
        ('[{"image_id": 4, "bbox": [1, 2, 3, 4]}]', "entry 0 has no score"),
        (results((4, (1, 2, 3, 4), 1), (4, (1, 2, 3), 1)), r"entry 1: bbox .*, expected x, y, w"),
        (results((4, (1, 2, 3, "x"), 1)), "entry 0: bbox"),
        (results((4, (1, 2, float("nan"), 4), 1)), "entry 0: bbox"),
        (results((4, (1, 2, 0, 4), 1)), "entry 0: bbox .* has no area"),
        (results((4, (9, 9, -3, 4), 1)), "entry 0: bbox .* has no area"),
        (results((4, (1, 2, 3, 4), None)), "entry 0: score null"),
        (
            results((4, (1e38, 2, 3e38, 4), 1)),
            "results.json: proposals of a.jpg, row 0: .* not fin",
        ),
    ],
)
def test_results_that_are_none(tmp_path, content, message):
    data = open_dataset(make_coco(tmp_path))
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        with_proposals(data, path)
    assert str(path) in str(caught.value)


def test_batches_have_them(voc):
    data = with_proposals(voc, {"a.jpg": A, "b.jpg": B, "c.jpg": EMPTY})
    steps = Compose([HorizontalFlip(1.0), ScaleJitterCrop((64, 64), (0.5, 2))])
    (batch,) = Loader(data, 3, augment=steps).epoch(0)
    for image, target in zip(batch.images, batch.targets, strict=True):
        rows = target["proposals"]
        assert image.shape == (64, 64, 3) and rows.dtype == np.float32 and rows.shape[1] == 4
        assert (rows >= 0).all() and (rows <= 64).all() and (rows[:, 2:] > rows[:, :2]).all()
