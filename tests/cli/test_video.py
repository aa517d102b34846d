"""``mlx_rcnn predict`` on videos: whole files of pictures, rows and lines, whatever ends it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clips import clip
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.predict import command, video
from mlx_rcnn.inputs.video import Video
from mlx_rcnn.models.stream import stream
from mlx_rcnn.outputs.detections import Detections
from mlx_rcnn.outputs.video import VideoWriter

av = pytest.importorskip("av")
NAMES = ("__background__", "cat", "dog")


class Told:
    """Finds a cat whose box says how light the frame is, and a weak dog; ``stop`` interrupts."""

    class_names, config, needs_masks = NAMES, type("C", (), {"num_classes": 3})(), False

    def __init__(self, stop: int | None = None) -> None:
        self.calls: list[int] = []
        self.stop = stop

    def predict(self, images: Any, **options: Any) -> list[Detections]:
        if self.stop is not None and sum(self.calls) >= self.stop:
            raise KeyboardInterrupt
        self.calls.append(len(images))
        results = []
        for image in images:
            side = 5 + float(image.mean()) / 8
            arrays = {
                "boxes": np.array([[2, 3, 2 + side, 30], [0, 0, 10, 10]], np.float32),
                "scores": np.array([0.9, 0.2], np.float32),
                "labels": np.array([1, 2], np.int32),
            }
            results.append(Detections(arrays, NAMES, image.shape[:2]))
        return results


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    model = Told()
    monkeypatch.setattr(command, "load_model", lambda *a, **k: model)
    return model


def run(*words: object) -> int:
    return main(["predict", "--model", "m", *(str(word) for word in words)])


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    with Video(path) as video:
        return [(f.seconds, f.image) for f in video]


def test_video_csv_and_lines(told: Told, tmp_path: Path, capsys: Any) -> None:
    source = clip(tmp_path / "a clip é.mp4", 12, rate=10, sound=1.2)
    assert run(source, "--out", tmp_path / "out", "--batch-size", 5) == 0
    assert told.calls == [5, 5, 2]
    said = capsys.readouterr().out
    assert "12 frames, 24 detections; from decoded to predicted a frame took " in said
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        f"a clip é{s}" for s in (".csv", ".jsonl", ".mp4")
    ]
    written = frames_of(out / "a clip é.mp4")
    np.testing.assert_allclose([s for s, _ in written], np.arange(12) / 10, atol=2e-3)
    assert written[0][1].shape == (48, 64, 3)
    with av.open(str(out / "a clip é.mp4")) as found, av.open(str(source)) as given:
        lengths = [
            float(c.streams.audio[0].duration * c.streams.audio[0].time_base)
            for c in (found, given)
        ]
        assert lengths[0] == pytest.approx(lengths[1], abs=0.15)
    rows = list(csv.DictReader((out / "a clip é.csv").open(encoding="utf-8")))
    assert len(rows) == 24 and rows[0]["name"] == "cat" and rows[3]["seconds"] == "0.1"
    lines = [
        json.loads(line)
        for line in (out / "a clip é.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [e["frame"] for e in lines] == np.repeat(np.arange(12), 2).tolist()
    widths = [e["bbox"][2] for e in lines[::2]]
    assert widths == sorted(widths) and lines[0]["category_id"] == 1


def test_how_long_a_frame_took() -> None:
    done = video._Written(3, latencies=[i / 1000 for i in range(1, 102)])
    assert str(done) == (
        "101 frames, 3 detections; from decoded to predicted a frame took 51 ms (p50), 91 ms "
        "(p90), 100 ms (p99)"
    )
    assert str(video._Written()) == "0 frames, 0 detections"


def test_a_frame_s_latency_counts_from_its_decoding(tmp_path: Path) -> None:
    """Of two frames that are predicted together the first has waited for the second."""

    class Slow(Told):
        def predict(self, images: Any, **options: Any) -> list[Detections]:
            time.sleep(0.02)
            return super().predict(images, **options)

    def frames() -> Any:
        for i in range(4):
            time.sleep(0.03 * (i % 2))
            yield np.full((8, 8, 3), i, np.uint8)

    found = [r.frame.latency for r in stream(Slow(), frames(), batch_size=2) if r.frame]
    assert len(found) == 4 and min(found) >= 0.02
    assert all(found[i] - found[i + 1] >= 0.029 for i in (0, 2))


def test_parts_classes_and_folders(told: Told, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("b.mp4", "a.avi"):
        clip(tmp_path / "clips" / name, 12)
    words = ("--every", 2, "--from", "0.2", "--to", "0:00:00.9", "--classes", "dog", "--no-images")
    assert run(tmp_path / "clips", "--out", tmp_path / "out", *words) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.csv",
        "a.jsonl",
        "b.csv",
        "b.jsonl",
    ]
    lines = [json.loads(line) for line in (tmp_path / "out/b.jsonl").read_text().splitlines()]
    assert [e["frame"] for e in lines] == [2, 4, 6, 8] and {e["name"] for e in lines} == {"dog"}
    assert "4 frames, 4 detections" in capsys.readouterr().out


def test_interrupted_it_leaves_whole_files(told: Told, tmp_path: Path, capsys: Any) -> None:
    told.stop = 4
    assert run(clip(tmp_path / "a.mp4", 12), "--out", tmp_path / "out") == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(frames_of(tmp_path / "out/a.mp4")) == 4
    assert len((tmp_path / "out/a.jsonl").read_text().splitlines()) == 8
    assert not list((tmp_path / "out").glob(".*"))


def test_what_cannot_work_is_one_line(told: Told, tmp_path: Path, capsys: Any) -> None:
    good = clip(tmp_path / "a.mp4", 3)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mov").write_text("none")
    for words, message in (
        (
            (good, tmp_path / "photo.jpg"),
            "photo.jpg is no video: expected images or videos, not both",
        ),
        ((tmp_path / "none.mp4",), "none.mp4"),
        ((tmp_path / "empty.mp4",), "is empty"),
        ((tmp_path / "text.mov",), "cannot be opened as a video"),
        ((good, "--json", "x.json"), "--json goes with images"),
        ((good, "--from", "9"), "none is left from 9"),
        ((good, "--every", "0"), "expected a whole number of at least 1"),
        ((good, "--to", "a:b"), "expected seconds, M:S or H:M:S"),
        ((good, "--tta-flip"), "go with images, not with videos"),
        ((good, "--save", "csv"), "--save goes with images"),
    ):
        assert run(*words, "--out", tmp_path / "out") == 2, words
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert not told.calls and not (tmp_path / "out").exists()


def test_a_stream_is_lazy_and_ends(tmp_path: Path) -> None:
    model = Told()
    results = stream(model, clip(tmp_path / "a.mp4", 12), batch_size=2, every=3)
    first = next(results)
    assert first.frame is not None and first.frame.number == 0 and first.image is first.frame.image
    assert model.calls == [2]
    assert [r.frame.number for r in results if r.frame] == [3, 6, 9]
    images = [np.full((8, 8, 3), i, np.uint8) for i in range(5)]
    assert len(list(stream(model, images, batch_size=3))) == 5
    with pytest.raises(ValueError, match="batch_size=0"):
        stream(model, images, batch_size=0)


def test_times_that_vary_are_kept(tmp_path: Path) -> None:
    times = [0, 0.1, 0.5, 0.6, 2.0]
    source = clip(tmp_path / "a.mp4", 5, times=times)
    with Video(source) as video, VideoWriter(tmp_path / "b.mp4", video) as writer:
        for frame in video:
            writer.write(frame.image, frame.seconds)
    np.testing.assert_allclose([s for s, _ in frames_of(tmp_path / "b.mp4")], times, atol=2e-3)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Twenty thousand frames, streamed by a process whose size is looked at."""
    path = clip(tmp_path / "a.mp4", 20_000, size=(96, 128))
    code = (
        "import resource, sys; sys.path.insert(0, 'tests/cli'); sys.path.insert(0, 'tests')\n"
        "from test_video import Told; from mlx_rcnn.models.stream import stream\n"
        "size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for i, _ in enumerate(stream(Told(), {str(path)!r}, batch_size=4)):\n"
        "    early = size() if i == 2000 else (early if i > 2000 else 0)\n"
        "print(size() / early)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1.05
