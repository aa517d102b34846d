"""Function files: what they give is what `predict` gives, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import FasterRCNN, MaskRCNN, ProposalNetwork, export_function, load_function
from mlx_rcnn.checkpoints.exported_function import beside
from mlx_rcnn.heads import MaskBranch
from mlx_rcnn.heads.detections import detection_rule
from mlx_rcnn.inputs.transform import preprocess
from small import BACKBONE, photo, untrained

SIZE = (96, 128)
PHOTO = photo()[:96, 30:158]
Models = Callable[..., FasterRCNN]


def predicted(model, image: np.ndarray) -> dict[str, np.ndarray]:
    """`predict` of an image that needs no resize."""
    assert model.config.min_size == min(image.shape[:2])
    return dict(model.predict(image, **({"masks": "raw"} if model.needs_masks else {}))[0])


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """The same detections: boxes, scores and labels to the bit, the rest to rounding."""
    assert got.keys() == want.keys()
    for name in want:
        if name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(got[name], want[name])
        else:
            np.testing.assert_allclose(got[name], want[name], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "kind", ["faster_rcnn", "mask_rcnn", "keypoint_rcnn", "cascade_rcnn", "cascade_mask_rcnn"]
)
def test_a_function_gives_what_predict_gives(kind: str, small_model: Models, tmp_path) -> None:
    mx.random.seed(0)
    model = untrained(kind) if "cascade" in kind else small_model(kind)
    path = tmp_path / "app.mlxfn"
    [agreement] = export_function(model, path, [SIZE], top_k=12)
    assert agreement.same == agreement.found > 0 and agreement.boxes == agreement.scores == 0
    function = load_function(path)
    want = predicted(model, PHOTO)
    assert len(want["scores"]) > 12
    close(function(PHOTO), {name: value[:12] for name, value in want.items()})
    outputs = function.outputs(PHOTO)
    assert list(outputs) == function.metadata["outputs"]
    assert all(value.shape[0] == 12 for value in outputs.values())


def test_floats_two_sizes_and_weights_stored_once(small_model: Models, tmp_path) -> None:
    model = small_model("faster_rcnn")
    export_function(model, tmp_path / "one.mlxfn", [SIZE])
    export_function(model, tmp_path / "two.mlxfn", [SIZE, (96, 96), SIZE])
    weights = sum(v.nbytes for _, v in tree_flatten(model.parameters()))
    one, two = ((tmp_path / f"{name}.mlxfn").stat().st_size for name in ("one", "two"))
    assert weights < one < two < one + weights / 2
    function = load_function(tmp_path / "two.mlxfn")
    assert function.sizes == [SIZE, (96, 96)]
    for image in (PHOTO, PHOTO[:, :96]):
        close(function(image), predicted(model, image))
        floats = image.astype(np.float32) / 255
        close(function(floats), predicted(model, floats))


def test_a_photo_in_the_corner_is_as_in_a_padded_batch(small_model: Models, tmp_path) -> None:
    """Whatever lies around it."""
    model = small_model("faster_rcnn")
    export_function(model, tmp_path / "app.mlxfn", [SIZE])
    function = load_function(tmp_path / "app.mlxfn")
    part = PHOTO[:70, :101]
    canvas = np.full((*SIZE, 3), 201, np.uint8)
    canvas[:70, :101] = part
    batch = preprocess([part, PHOTO], model.config, [part.shape[:2], SIZE])
    want = model.find_in(batch, detection_rule(model.config))[0]
    got = function(canvas, (70, 101))
    assert len(got["scores"]) == len(want["scores"]) > 0
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-3)
    assert got["boxes"][:, 2].max() <= 101 and got["boxes"][:, 3].max() <= 70


@pytest.mark.parametrize(
    "options",
    [
        {"size_divisible": 1, "min_size": 90, "channel_order": "bgr", "resize_rule": "pillow"},
        {"roi_sampling_ratio": 0, "roi_aligned": True, "clip_results": True},
        {"roi_pooling": "pool", "box_nms_kind": "linear", "stride_rule": "torchvision"},
        {"box_score_thresh": (0.3, 0.1, 0.2, 0.0), "box_nms_agnostic": True},
    ],
)
def test_settings(options: dict, fresh_model: Models, tmp_path) -> None:
    model = fresh_model("faster_rcnn", **options)
    image = PHOTO[: model.config.min_size]
    export_function(model, tmp_path / "app.mlxfn", [image.shape[:2]])
    got, want = load_function(tmp_path / "app.mlxfn")(image), predicted(model, image)
    assert len(got["scores"]) == len(want["scores"]) > 0
    np.testing.assert_array_equal(got["labels"], want["labels"])
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5)
    np.testing.assert_allclose(got["boxes"], want["boxes"], atol=1e-2)


def test_nothing_found_and_equal_scores(fresh_model: Models, tmp_path) -> None:
    model = fresh_model("mask_rcnn", box_score_thresh=1.0)
    export_function(model, tmp_path / "app.mlxfn", [SIZE])
    function = load_function(tmp_path / "app.mlxfn")
    found = function.outputs(PHOTO)
    assert not np.array(found["valid"]).any()
    assert all(not np.array(found[name]).any() for name in ("boxes", "scores", "labels"))
    assert [len(v) for v in function(PHOTO).values()] == [0] * 4

    model = fresh_model("faster_rcnn")  # all classes of all proposals score alike
    last = model.roi_heads.box_predictor.cls_score
    last.weight, last.bias = mx.zeros_like(last.weight), mx.zeros_like(last.bias)
    export_function(model, tmp_path / "app.mlxfn", [SIZE])
    want = predicted(model, PHOTO)
    assert len(set(want["scores"].tolist())) == 1 < len(want["scores"])
    close(load_function(tmp_path / "app.mlxfn")(PHOTO), want)


def test_a_proposal_network(tmp_path) -> None:
    model = ProposalNetwork(BACKBONE, 32, use_fpn=True, min_size=96, rpn_post_nms_top_n_test=40)
    export_function(model, tmp_path / "app.mlxfn", [SIZE])
    function = load_function(tmp_path / "app.mlxfn")
    close(function(PHOTO), predicted(model, PHOTO))
    assert function.metadata["outputs"] == ["boxes", "scores", "labels", "valid"]


def test_weights_of_16_bits_stay_so_in_the_file(fresh_model: Models, tmp_path) -> None:
    model = fresh_model("faster_rcnn")
    export_function(model, tmp_path / "wide.mlxfn", [SIZE])
    half = fresh_model("faster_rcnn")
    half.set_dtype(mx.float16)
    export_function(half, tmp_path / "half.mlxfn", [SIZE])
    wide, small = ((tmp_path / f"{k}.mlxfn").stat().st_size for k in ("wide", "half"))
    weights = sum(v.nbytes for _, v in tree_flatten(model.parameters()))
    assert wide - small > 0.45 * weights
    close(load_function(tmp_path / "half.mlxfn")(PHOTO), predicted(half, PHOTO))


def test_what_is_told_beside_the_function(fresh_model: Models, tmp_path) -> None:
    names = ("__background__", "a", 'b "x"', "ç", "d")
    path = tmp_path / "app.mlxfn"
    path.write_bytes(b"old")
    model = fresh_model("keypoint_rcnn", class_names=names)
    export_function(model, path, [SIZE], score_thresh=0.2)
    told = json.loads(beside(path).read_text())
    assert told == load_function(path).metadata
    assert told["class_names"] == list(names) and told["sizes"] == [list(SIZE)]
    assert told["mlx_version"] == mx.__version__ and told["device"] == "cpu"
    assert told["score_thresh"] == 0.2 and told["outputs"][4:] == ["keypoints", "keypoints_scores"]
    assert sorted(os.listdir(tmp_path)) == ["app.mlxfn", "app.mlxfn.json"]


class Asks(nn.Module):
    """A backbone that looks at a value."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=16, padding=1)

    def __call__(self, x):
        y = self.conv(x)
        return y if y.sum().item() > 0 else -y


class Bends(Asks):
    """A backbone with a gradient of its own."""

    def __call__(self, x):
        function = mx.custom_function(lambda v: 2 * v)
        function.vjp(lambda primals, cotangent, _: cotangent)
        return function(self.conv(x))


class Own(Asks):
    """A backbone of the user's own that can be traced."""

    def __call__(self, x):
        return self.conv(x)


def over(backbone: nn.Module) -> FasterRCNN:
    return FasterRCNN(backbone, 8, 4, hidden_dim=16, min_size=96)


def test_a_backbone_of_ones_own(tmp_path) -> None:
    model = over(Own())
    export_function(model, tmp_path / "app.mlxfn", [SIZE])
    close(load_function(tmp_path / "app.mlxfn")(PHOTO), predicted(model, PHOTO))


class Unknown(MaskBranch):
    finds = ()


class WithUnknown(MaskRCNN):
    branches = (Unknown(),)


def unknown_head() -> FasterRCNN:
    return WithUnknown(BACKBONE, 32, 5, use_fpn=True, hidden_dim=16)


def not_finite() -> FasterRCNN:
    model = untrained("faster_rcnn")
    model.rpn.head.cls_logits.bias = model.rpn.head.cls_logits.bias + float("nan")
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: untrained("fast_rcnn"), {}, "a FastRCNN needs proposals, which an exported"),
        (lambda: over(Asks()), {}, "cannot export 'Asks', which is not of this package"),
        (lambda: over(Bends()), {}, "cannot export 'Bends', which is not of this package"),
        (unknown_head, {}, "a Unknown cannot be exported: expected a branch with `finds`"),
        (not_finite, {}, "weights of the model are not finite: 'rpn.head.cls_logits.bias'"),
        (lambda: over(Own()), {"sizes": []}, "sizes is empty"),
        (lambda: over(Own()), {"sizes": [(16, 96)]}, "size 16x96: expected sides of 32 to 4096"),
        (lambda: over(Own()), {"sizes": [(96, 5000)]}, "size 96x5000: expected sides of 32"),
        (lambda: over(Own()), {"name": "app.onnx"}, "expected a name that ends in .mlxfn"),
        (lambda: over(Own()), {"name": "no/app.mlxfn"}, "no such folder: "),
        (lambda: over(Own()), {"score_thresh": 2}, "score_thresh=2: expected a number in"),
    ],
)
def test_what_is_refused(make, options: dict, message: str, tmp_path) -> None:
    path = tmp_path / options.pop("name", "app.mlxfn")
    if path.parent == tmp_path:
        path.write_bytes(b"old")
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as error:
        export_function(make(), path, options.pop("sizes", [SIZE]), **options)
    assert "\n" not in str(error.value)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] in ([b"old"], [])


def test_a_proposal_network_keeps_its_own_thresholds(tmp_path) -> None:
    model = ProposalNetwork(BACKBONE, 32, use_fpn=True, min_size=96)
    with pytest.raises(ValueError, match="expected rpn_score_thresh"):
        export_function(model, tmp_path / "app.mlxfn", [SIZE], top_k=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("function") / "app.mlxfn"
    export_function(over(Own()), path, [SIZE])
    return path


def test_images_that_do_not_fit(whole: Path) -> None:
    function = load_function(whole)
    for image, content, message in (
        (PHOTO[:90], None, "image of 90x128 pixels: expected 96x128"),
        (PHOTO, (97, 3), "content=(97, 3): expected a part of the image of 96x128"),
        (PHOTO, (0, 3), "content=(0, 3): expected a part"),
        (PHOTO.astype(np.float32), None, "divide by 255"),
        (PHOTO[..., :1], None, "repeat the grey channel"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(image, content)


@pytest.mark.parametrize("share", [0, 3, 12, 60, 0.3, 0.999])
def test_files_that_are_cut_off(share: float, whole: Path, tmp_path) -> None:
    data = whole.read_bytes()
    path = tmp_path / "cut.mlxfn"
    path.write_bytes(data[: int(share if share > 1 else share * len(data))])
    with pytest.raises(ValueError, match=r"cut\.mlxfn is no(t a whole)? function file"):
        load_function(path)


def test_files_of_others(whole: Path, tmp_path) -> None:
    path = tmp_path / "other.mlxfn"
    version = mx.__version__.encode()
    older = b"0" + version[1:-1] + (b"1" if version[-1:] != b"1" else b"2")
    path.write_bytes(whole.read_bytes().replace(version, older, 1))
    with pytest.raises(ValueError, match=f"written by MLX {older.decode()}, and this is MLX"):
        load_function(path)
    for metadata in ("", "[]", '{"format": "x"}'):
        with mx.exporter(str(path), lambda x: x + 1, metadata=metadata) as trace:
            trace(mx.zeros(3))
        with pytest.raises(ValueError, match="is no function file of mlx_rcnn"):
            load_function(path)
    with pytest.raises(FileNotFoundError):
        load_function(tmp_path / "none.mlxfn")
    text = json.dumps({**load_function(whole).metadata, "device": "gpu"})
    with mx.exporter(str(path), lambda x: x + 1, metadata=text) as trace:
        trace(mx.zeros(3))
    if not mx.is_available(mx.Device(mx.gpu)):
        with pytest.raises(ValueError, match="exported for a GPU, and MLX has none"):
            load_function(path)
