"""Divided data: no image twice, every part with its share of each class, the same for a seed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotated import save_image
from mlx_rcnn.data.stratify import stratified


class Counted:
    """Images without files, of so many objects a class."""

    def __init__(self, counts, paths=None):
        self.counts = np.asarray(counts).reshape(len(counts), -1)
        self.class_names = ("__background__", *"abcdefgh"[: self.counts.shape[1]])
        files = paths or [Path(f"/nowhere/{i}.jpg") for i in range(len(counts))]
        self.items = [SimpleNamespace(path=path) for path in files]

    def __len__(self):
        return len(self.items)

    def target(self, i):
        labels = np.repeat(np.arange(1, self.counts.shape[1] + 1), self.counts[i])
        return {"labels": labels, "iscrowd": np.zeros(len(labels), np.uint8)}


counts = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=3, max_size=40)


@settings(max_examples=40, deadline=None)
@given(counts, st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.integers(0, 3))
def test_parts_share_no_image_and_have_their_size(found, val, test, seed):
    data = Counted(found)
    parts = stratified(data, {"val": val, "test": test}, seed)
    assert list(parts) == ["train", "val", "test"]
    assert sorted(i for part in parts.values() for i in part) == list(range(len(data)))
    assert all(part == sorted(part) and part for part in parts.values())
    for name, share in (("val", val), ("test", test)):
        assert abs(len(parts[name]) - share * len(data)) <= 1
    assert parts == stratified(data, {"val": val, "test": test}, seed)


def test_rare_classes_are_in_every_part():
    rng = np.random.default_rng(0)
    rare, none = (rng.random(200) < 0.05).astype(int), np.zeros(200, int)
    found = np.stack([rng.integers(1, 20, 200), rare, none], 1)
    parts = stratified(Counted(found), {"val": 0.2})
    share = found[parts["val"]].sum(axis=0) / found.sum(axis=0).clip(1)
    np.testing.assert_allclose(share[:2], 0.2, atol=0.06)
    assert len(parts["val"]) == 40
    assert stratified(Counted(found), {"val": 0.2}, 1) != parts


def test_files_of_the_same_bytes_stay_together(tmp_path):
    paths = [save_image(tmp_path / f"{i}.png", (10, 10 + i // 5)) for i in range(20)]
    parts = stratified(Counted([[1]] * 20, paths), {"val": 0.25})
    groups = {name: {i // 5 for i in part} for name, part in parts.items()}
    assert not groups["train"] & groups["val"] and len(parts["val"]) == 5


@pytest.mark.parametrize(
    ("fractions", "problem"),
    [
        ({}, "expected more than 0"),
        ({"val": 0.0}, "val 0: expected more than 0"),
        ({"val": 0.6, "test": 0.4}, "less than 1 together"),
        ({"val": 0.2, "test": 0.2}, "2 different images cannot be 3 parts"),
    ],
)
def test_what_cannot_be_divided(fractions, problem):
    with pytest.raises(ValueError, match=problem):
        stratified(Counted([[1], [1]]), fractions)
