"""A results file gives the metrics of the evaluation that wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_rcnn.data import ShapesDataset, open_dataset, write_coco
from mlx_rcnn.evaluation import coco_metrics, collect, read_results, results_entries
from mlx_rcnn.outputs.coco import write_results


class Nearly:
    """Finds what is annotated, its masks and keypoints, a little beside where it is."""

    def __init__(self, dataset, name: str):
        self.dataset, self.name, self.at = dataset, name, 0

    def predict(self, images, *, score_thresh=None):
        target, self.at = self.dataset[self.at].target, self.at + 1
        found = {k: target[k] for k in ("boxes", "labels", self.name)}
        count = len(found["boxes"])
        found["scores"] = np.linspace(0.9, 0.5, count, dtype=np.float32)
        found["boxes"] = found["boxes"] + np.float32(2)
        if self.name == "masks":
            found["masks"] = np.roll(target["masks"].astype(bool), 2, axis=2)
        else:
            found["keypoints"] = target["keypoints"] + np.array([1.5, 0, 0], np.float32)
            found["keypoints_scores"] = np.ones(target["keypoints"].shape[:2], np.float32)
        return [found]


@pytest.mark.parametrize(("name", "prefix"), [("masks", "segm_"), ("keypoints", "keypoints_")])
def test_there_and_back(tmp_path: Path, name: str, prefix: str) -> None:
    shapes = ShapesDataset(4, (64, 80), keypoints=name == "keypoints")
    path = write_coco(shapes, tmp_path / "data")
    data = open_dataset(path, masks=name == "masks", keypoints=name == "keypoints")
    collected = collect(Nearly(data, name), data, progress=False)
    write_results(tmp_path / "found.json", results_entries(collected, data.category_ids))
    first, again = (
        coco_metrics(collected),
        coco_metrics(read_results(tmp_path / "found.json", data)),
    )
    assert 0 < first[f"{prefix}AP"] < 1
    for key in ("AP", "AP50", "APs", f"{prefix}AP", f"{prefix}AP75", "objects", "detections"):
        assert again[key] == pytest.approx(first[key], nan_ok=True), key
