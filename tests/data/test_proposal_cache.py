"""Proposals of a dataset, computed once: files that are used again, added to, and resumed."""

import sys

import numpy as np
import pytest
from PIL import Image

from annotated import make_voc
from mlx_rcnn.data import (
    compute_proposals,
    open_dataset,
    read_note,
    read_proposals,
    selective_search,
    with_proposals,
    write_proposals,
)

cache = sys.modules["mlx_rcnn.data.proposal_cache"]


@pytest.fixture
def searched(monkeypatch):
    """The images that are searched; each has one box of its own, and one is no image at all."""
    calls = []

    def one(task):
        calls.append(task.name)
        if len(calls) == one.fails_at:
            raise KeyboardInterrupt
        return task.name, np.array([[1, 2, 30 + len(calls), 40]], np.float32)

    one.fails_at, calls_of = 0, calls
    monkeypatch.setattr(cache, "_one", one)
    monkeypatch.setattr(cache, "load_opencv", lambda: None)
    return one, calls_of


def test_once_and_again(tmp_path, searched):
    _, calls = searched
    data = open_dataset(make_voc(tmp_path / "voc"))
    path = compute_proposals(data, tmp_path / "made", limit=7, progress=False)
    assert path.name == "proposals-selective-search-fast-500px-7.npz"
    assert calls == ["a.jpg", "b.jpg", "c.jpg"]
    before = path.read_bytes()
    assert compute_proposals(data, tmp_path / "made", limit=7, progress=False) == path
    assert len(calls) == 3 and path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    note = read_note(path)
    assert note["settings"] == {
        "method": "selective-search",
        "mode": "fast",
        "width": 500,
        "limit": 7,
    }
    assert with_proposals(data, path).target(2)["proposals"].tolist() == [[1, 2, 33, 40]]
    # Other settings are another file.
    assert compute_proposals(data, tmp_path / "made", "quality", progress=False) != path
    assert len(calls) == 6


def test_another_split_is_added(tmp_path, searched):
    _, calls = searched
    root = make_voc(tmp_path / "voc")
    train, val = (open_dataset(root, split=split) for split in ("train", "val"))
    path = compute_proposals(train, tmp_path, progress=False)
    assert compute_proposals(val, tmp_path, progress=False) == path
    assert calls == list(read_proposals(path)) == ["a.jpg", "b.jpg", "c.jpg"]


def test_an_interrupted_run_goes_on(tmp_path, searched):
    one, calls = searched
    data = open_dataset(make_voc(tmp_path / "voc"))
    one.fails_at = 3
    path = tmp_path / "mine.npz"
    with pytest.raises(KeyboardInterrupt):
        compute_proposals(data, path, progress=False)
    assert not path.exists()
    assert list(read_proposals(tmp_path / "mine.partial.npz")) == ["a.jpg", "b.jpg"]
    one.fails_at = 0
    assert compute_proposals(data, path, progress=False) == path
    assert calls == ["a.jpg", "b.jpg", "c.jpg", "c.jpg"]
    assert len(read_proposals(path)) == 3 and not (tmp_path / "mine.partial.npz").exists()


def test_what_is_done_is_kept_from_time_to_time(tmp_path, searched, monkeypatch):
    saved = []
    real = cache.write_proposals
    monkeypatch.setattr(cache, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(cache, "write_proposals", lambda p, *a: (saved.append(p.name), real(p, *a)))
    compute_proposals(open_dataset(make_voc(tmp_path / "voc")), tmp_path / "p.npz", progress=False)
    assert saved == ["p.partial.npz"] * 3 + ["p.npz"]


def test_files_of_something_else(tmp_path, searched):
    _, calls = searched
    data = open_dataset(make_voc(tmp_path / "voc"))
    path = tmp_path / "p.npz"
    write_proposals(path, {"a.jpg": np.array([[0, 0, 5, 5]])}, {"source": "a friend"})
    with pytest.raises(ValueError, match=r"p\.npz has proposals made by something else, expected"):
        compute_proposals(data, path, progress=False)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="is damaged"):
        compute_proposals(data, path, progress=False)
    path.unlink()
    compute_proposals(data, path, progress=False)
    with pytest.raises(ValueError, match=r"'mode': 'fast'.*expected .*'mode': 'quality'"):
        compute_proposals(data, path, "quality", progress=False)
    # The same name, another picture.
    Image.new("RGB", (100, 80), (1, 200, 3)).save(data.items[1].path, quality=100)
    with pytest.raises(ValueError, match=r"proposals of another image called b\.jpg"):
        compute_proposals(data, path, progress=False)
    assert len(calls) == 3


def test_settings_out_of_range(tmp_path):
    data = open_dataset(make_voc(tmp_path / "voc"))
    for options in ({"mode": "slow"}, {"limit": 0}, {"width": 3}, {"workers": 0}):
        with pytest.raises(ValueError, match="expected"):
            compute_proposals(data, tmp_path, progress=False, **options)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_for_real(tmp_path, workers):
    pytest.importorskip("cv2.ximgproc")
    root = make_voc(tmp_path / "voc")
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = np.kron(rng.integers(0, 255, (8, 10, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
    data = open_dataset(root)
    path = compute_proposals(data, tmp_path, limit=9, width=100, workers=workers, progress=False)
    found = with_proposals(data, path)
    for i in range(3):
        rows = found.target(i)["proposals"]
        np.testing.assert_array_equal(rows, selective_search(data[i].image, "fast", 9, 100))
        assert 1 <= len(rows) <= 9
