"""Tiles of large images: every object once, where it is in the image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from mlx_rcnn import Tiles, draw_detections, predict_tiled
from mlx_rcnn.inputs.pixels import ImageError
from mlx_rcnn.inputs.tiff import TiffImage
from mlx_rcnn.models.tiled import merge_tiles
from mlx_rcnn.outputs.detections import Detections
from small import photo, untrained


def spots(size: tuple[int, int], boxes: Any) -> np.ndarray:
    """A black picture with a box of its own colour for each object, told apart by red and green."""
    image = np.zeros((*size, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = (i % 200 + 1, i // 200 + 1, 255)
    return image


class Sees:
    """Finds what is visible of each object, as a perfect network would; ``least`` pixels of it."""

    class_names, needs_masks = ("__background__", "spot"), False
    config = SimpleNamespace(box_nms_thresh=0.5)

    def __init__(self, least: int = 1, most: int = 10**9) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.least, self.most = least, most

    def predict(self, images: Any, **options: Any) -> list[Detections]:
        results = []
        for image in images:
            self.sizes.append(image.shape[:2])
            rows = []
            codes = image[..., 0] + 256 * image[..., 1].astype(np.int32)
            codes[image[..., 2] != 255] = 0
            for code in np.unique(codes[codes > 0]):
                y, x = np.nonzero(codes == code)
                if self.least <= len(y) <= self.most:
                    rows.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            arrays = {
                "boxes": np.array(rows, np.float32).reshape(-1, 4),
                "scores": np.linspace(0.9, 0.5, len(rows)).astype(np.float32),
                "labels": np.ones(len(rows), np.int32),
            }
            results.append(Detections(arrays, self.class_names, image.shape[:2]))
        return results


def same_boxes(found: Detections, boxes: Any) -> None:
    ours = sorted(map(tuple, found["boxes"].tolist()))
    assert ours == sorted(tuple(map(float, box)) for box in boxes)


def test_corners_cover_the_image_evenly() -> None:
    for size, overlap, length in (
        (100, 0.2, 100),
        (100, 0.2, 101),
        (100, 0.25, 1000),
        (64, 0, 640),
    ):
        tiles = Tiles(size, overlap)
        starts = sorted({x for _, x in tiles.corners(10, length)})
        assert starts[0] == 0 and starts[-1] == max(length - size, 0)
        steps = np.diff(starts)
        assert (steps <= round(size * (1 - overlap)) + 1).all() and (steps > 0).all()
    assert Tiles(100).corners(60, 90) == [(0, 0)]
    assert len(Tiles(64, 0.0).corners(640, 640)) == 100


def test_objects_on_seams_come_out_once() -> None:
    random = np.random.default_rng(0)
    boxes = []
    for y in range(10, 560, 30):  # smaller than the overlap of 40, everywhere
        for x in range(5, 760, 30):
            w, h = random.integers(6, 24, 2)
            boxes.append([x, y, x + w, y + h])
    image = spots((600, 800), boxes)
    model = Sees()
    [found] = predict_tiled(model, image, Tiles(200, 0.2, whole=False, batch_size=3))
    same_boxes(found, boxes)
    assert set(model.sizes) == {(200, 200)} and found.size == (600, 800)
    assert (np.diff(found["scores"]) <= 0).all() and found.names[0] == "spot"


def test_large_objects_are_the_whole_images() -> None:
    """The object is larger than a tile: the tiles' parts of it go."""
    boxes = [[50, 40, 560, 380], [600, 10, 620, 30]]
    image = spots((400, 640), boxes)
    [found] = predict_tiled(Sees(), image, Tiles(200, 0.2))
    same_boxes(found, boxes)
    [parts] = predict_tiled(Sees(), image, Tiles(200, 0.2, whole=False))
    assert len(parts) > 2


def test_an_image_that_fits_is_what_predict_gives() -> None:
    model = untrained("mask_rcnn")
    image = photo()[:100, :140]
    [ours], [theirs] = predict_tiled(model, [image], Tiles(256)), model.predict([image])
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_masks_and_keypoints_lie_in_the_image() -> None:
    model = untrained("mask_rcnn", box_score_thresh=0.0, box_detections_per_img=4)
    image = photo()[:96, :200]
    for masks, shape in (("full", (96, 200)), ("raw", (28, 28))):
        [found] = predict_tiled(model, image, Tiles(96, whole=False), masks=masks)
        assert found["masks"].shape == (len(found), *shape)
        assert found["boxes"][:, 2].max() > 110
    model = untrained("keypoint_rcnn", box_score_thresh=0.0, box_detections_per_img=3)
    [found] = predict_tiled(model, image, Tiles(96, whole=False))
    inside = found["boxes"][:, None, :2] - 1 <= found["keypoints"][..., :2]
    assert inside.all() and len(found) > 3


def test_merging_by_hand() -> None:
    def part(boxes: Any, scores: Any, labels: Any, cut: Any) -> Any:
        arrays = (np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels))
        return dict(zip(("boxes", "scores", "labels"), arrays, strict=True)), np.array(cut, bool)

    left = part([[0, 0, 10, 10], [90, 0, 100, 10]], [0.9, 0.95], [1, 1], [False, True])
    right = part([[80, 0, 120, 10], [90, 0, 100, 10]], [0.5, 0.4], [1, 2], [False, False])
    merged = merge_tiles([left, right], 0.5)
    # The cut quarter scores best but lies in a whole box; another class stays.
    assert merged["boxes"][:, 0].tolist() == [0, 80, 90]
    assert merged["labels"].tolist() == [1, 1, 2]
    assert merge_tiles([left, right], 0.5, top_k=1)["scores"].tolist() == pytest.approx([0.9])
    nothing = part(np.zeros((0, 4)), [], [], [])
    assert len(merge_tiles([nothing, nothing], 0.5)["boxes"]) == 0


@pytest.mark.parametrize("masks", ["full", "raw"])
def test_a_tiff_is_predicted_from_its_windows(tmp_path: Path, masks: str) -> None:
    """As the same picture in memory; paths paste masks, open files leave them raw."""
    path = tmp_path / "a.tif"
    image = photo()[:96, :200]
    tifffile.imwrite(path, image, photometric="rgb", tile=(32, 32), compression="zlib")
    model = untrained("mask_rcnn", box_score_thresh=0.0, box_detections_per_img=4)
    tiles = Tiles(96, 0.2, batch_size=2)
    [expected] = predict_tiled(model, image, tiles, masks=masks)
    for given in (path, str(path), TiffImage(path)):
        [found] = predict_tiled(model, given, tiles, masks=masks)
        assert found.size == (96, 200)
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(found[name], expected[name])
        raw = masks == "raw" or isinstance(given, TiffImage)
        assert found["masks"].shape[1:] == ((28, 28) if raw else (96, 200))
    assert found.draw().size == (200, 96) if isinstance(found.image, TiffImage) else True


class Slide:
    """An array-like that is never whole: it makes its windows, and counts what is asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, size: tuple[int, int], boxes: Any) -> None:
        self.shape, self.boxes, self.largest = (*size, 3), boxes, 0

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        top, left = rows.start, columns.start
        image = np.zeros((rows.stop - top, columns.stop - left, 3), np.uint8)
        self.largest = max(self.largest, image.size)
        for i, (x1, y1, x2, y2) in enumerate(self.boxes):
            y, x = max(y1 - top, 0), max(x1 - left, 0)
            image[y : max(y2 - top, 0), x : max(x2 - left, 0)] = (i % 200 + 1, i // 200 + 1, 255)
        return image


def test_no_window_is_larger_than_a_tile_or_a_block_of_the_overview() -> None:
    boxes = [[10, 20, 40, 60], [8200, 50, 8240, 90], [4100, 4300, 4150, 4350]]
    slide = Slide((4500, 8300), boxes)
    model = Sees()
    [found] = predict_tiled(model, slide, Tiles(1000, 0.1))
    same_boxes(found, boxes)  # the overview, 3 by 3 pixels averaged, adds nothing
    assert found.size == (4500, 8300) and slide.largest <= 1024 * 1024 * 3
    assert model.sizes[-1] == (1500, 2767) and set(model.sizes[:-1]) == {(1000, 1000)}
    drawn = draw_detections(slide, found, found.class_names)
    assert drawn.size == (2767, 1500)


def test_large_objects_are_the_overviews() -> None:
    boxes = [[90, 900, 4500, 2100]]
    [found] = predict_tiled(Sees(), Slide((3000, 5000), boxes), Tiles(1000, 0.1))
    same_boxes(found, boxes)


def test_a_level_of_a_pyramid(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    boxes = [[40, 8, 60, 32], [200, 100, 220, 140]]
    image = spots((160, 240), boxes)
    with tifffile.TiffWriter(path) as file:
        file.write(image, subifds=1, photometric="rgb", tile=(32, 32))
        file.write(image[::2, ::2], subfiletype=1, photometric="rgb", tile=(32, 32))
    model = Sees()
    [found] = predict_tiled(model, path, Tiles(60, 0.4, whole=False, level=1))
    same_boxes(found, boxes)  # in pixels of the full resolution
    assert set(model.sizes) == {(60, 60)} and len(model.sizes) == 6
    with pytest.raises(ImageError, match="no level 2: expected 0 to 1"):
        predict_tiled(model, path, Tiles(60, level=2))
    with pytest.raises(ImageError, match="level=1: expected 0, the image is no pyramid"):
        predict_tiled(model, image, Tiles(60, level=1))


def test_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    """Of a picture of 230 MB, a tile, a block, the overview and what is kept are in memory."""
    path = tmp_path / "a.tif"
    tile = np.random.default_rng(0).integers(0, 9, (512, 512, 3), dtype=np.uint8)
    side = 17 * 512
    with tifffile.TiffWriter(path) as file:
        tiles = (tile if i % 40 == 0 else None for i in range(17 * 17))
        options = {"shape": (side, side, 3), "dtype": np.uint8, "compression": "zlib"}
        file.write(tiles, tile=(512, 512), photometric="rgb", **options)
    code = (
        "import resource, sys\nfrom types import SimpleNamespace\nimport numpy as np\n"
        "from mlx_rcnn import Tiles, predict_tiled\n"
        "from mlx_rcnn.inputs import tiff_plane\n"
        "tiff_plane.KEPT = 4 << 20\n"
        "class Model:\n"
        "    class_names, needs_masks = None, False\n"
        "    config, seen = SimpleNamespace(), 0\n"
        "    def predict(self, images, **options):\n"
        "        self.seen += sum(int(image.sum()) for image in images)\n"
        "        none = {'boxes': np.zeros((0, 4)), 'scores': np.zeros(0), 'labels': np.zeros(0)}\n"
        "        return [dict(none) for _ in images]\n"
        "usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, model = usage(), Model()\n"
        "predict_tiled(model, sys.argv[1], Tiles(1024, 0.1))\n"
        "assert model.seen > 0\n"
        "print((usage() - before) / (1 << 20 if sys.platform == 'darwin' else 1024))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 130


def test_five_thousand_objects_of_a_tiled_prediction() -> None:
    """More than 100 of a tile, and more than any limit of an image: all come out, once each."""
    boxes = [[x, y, x + 6, y + 6] for y in range(4, 1400, 20) for x in range(4, 1460, 20)]
    [found] = predict_tiled(Sees(), spots((1410, 1470), boxes), Tiles(150, 0.1, whole=False))
    assert len(boxes) == 5110
    same_boxes(found, boxes)


def test_the_models_limit_is_of_a_tile() -> None:
    """``box_detections_per_img`` cuts no merged result; ``top_k`` does, and says so."""
    model = untrained("faster_rcnn", box_score_thresh=0.0, box_detections_per_img=7)
    image = photo()
    tiles = Tiles(96, 0.0, whole=False)
    [found] = predict_tiled(model, image, tiles, nms_thresh=1.0)
    count = len(tiles.corners(*image.shape[:2]))
    assert count == 12 and 5 * 7 < len(found) <= 7 * count  # what tiles cut goes
    assert len(predict_tiled(model, image, tiles, top_k=20, nms_thresh=1.0)[0]) == 20


def test_five_thousand_objects() -> None:
    boxes = [[x, y, x + 6, y + 6] for y in range(4, 1400, 20) for x in range(4, 1460, 20)][:5000]
    rng = np.random.default_rng(0)
    arrays = {
        "boxes": np.array(boxes * 2, np.float32),
        "scores": rng.uniform(0.1, 1, 2 * len(boxes)).astype(np.float32),
        "labels": np.ones(2 * len(boxes), np.int32),
    }
    nothing = {k: v[:0] for k, v in arrays.items()}
    parts = [(arrays, np.zeros(2 * len(boxes), bool)), (nothing, np.zeros(0, bool))]
    merged = merge_tiles(parts, 0.5)
    assert len(merged["boxes"]) == len(boxes) == 5000


def test_what_cannot_be() -> None:
    for wrong, message in (
        ({"size": 8}, "size=8"),
        ({"overlap": 1}, "overlap=1: expected at most 0.9"),
        ({"overlap": -0.1}, "overlap=-0.1"),
        ({"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Tiles(**wrong)
    with pytest.raises(TypeError, match="expected Tiles"):
        predict_tiled(Sees(), photo(), 512)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a FastRCNN needs proposals"):
        predict_tiled(untrained("fast_rcnn"), photo())
