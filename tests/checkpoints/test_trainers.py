"""Checkpoints as people's training scripts write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_rcnn
from mlx_rcnn.convert.files.safe_values import Opaque
from mlx_rcnn.convert.files.state_dict import state_dict_of
from mlx_rcnn.convert.files.torch_file import load_torch_file
from mlx_rcnn.convert.files.torch_writer import save_torch_file
from mlx_rcnn.convert.libraries.recognise import knows

State = dict[str, mx.array]
EPOCH = mx.array(3, mx.int64)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def averaged(state: State) -> State:
    return {"n_averaged": EPOCH, **under("module.", state)}


SHAPES: dict[str, Callable[[State], dict[str, Any]]] = {
    "AveragedModel": averaged,
    "model_ema": lambda s: {"model_ema": averaged(s), "epoch": 3},
    "averaged beside the last": lambda s: {"model": s, "model_ema": averaged(s)},
    "any key": lambda s: {"detector": s, "epoch": 1, "optimizer": {"state": {}}},
    "two deep": lambda s: {"epoch": EPOCH, "trainer": {"weights": s, "best": 0.3}},
    "compiled": lambda s: under("_orig_mod.", s),
    "compiled, parallel": lambda s: {"state_dict": under("module._orig_mod.", s)},
    "compiled parts": lambda s: {
        k.replace("backbone.", "backbone._orig_mod.", 1): v for k, v in s.items()
    },
    "a list of scales": lambda s: {"net": s, "scaler": {"scale": EPOCH}},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("error")
def test_read_without_a_word(folder: Path, small_state, shape: str) -> None:
    save_torch_file(SHAPES[shape](small_state("faster_rcnn")), folder / "x.pth")
    assert mlx_rcnn.load(folder / "x.pth").config.num_classes == 5


BESIDE: dict[str, Callable[[State], State]] = {
    "metrics of Lightning": lambda s: {**under("model.", s), "val_map.total": mx.zeros((4,))},
    "averages of mmcv's hook": lambda s: (
        s | {f"ema_{k.replace('.', '_')}": v for k, v in s.items()}
    ),
    "counts of a profiler": lambda s: {**s, "backbone.body.total_ops": EPOCH},
    "another head": lambda s: {**s, "attributes.weight": mx.zeros((2, 3))},
}


@pytest.mark.parametrize("shape", BESIDE)
def test_what_lies_beside_is_named_and_left_out(folder: Path, small_state, shape: str) -> None:
    save_torch_file(BESIDE[shape](small_state("faster_rcnn")), folder / "x.pth")
    with pytest.warns(UserWarning, match="x.pth: left out, as no part of the network: '"):
        model = mlx_rcnn.load(folder / "x.pth")
    assert "left out" in model.source


def test_missing_tensors_are_an_error(folder: Path, small_state) -> None:
    state = dict(small_state("faster_rcnn"))
    state.pop("backbone.body.layer2.0.conv1.weight")
    save_torch_file(averaged(state), folder / "x.pth")
    with pytest.raises(ValueError, match="missing 'backbone.net.layer2.0.conv1.weight'"):
        mlx_rcnn.load(folder / "x.pth")


@pytest.mark.parametrize(
    "content",
    [
        lambda a, b: {"student": a, "teacher": b},
        lambda a, b: {"state_dict": under("student.", a) | under("teacher.", b)},
    ],
)
def test_several_networks_are_asked_for(folder: Path, small_state, content) -> None:
    one, two = small_state("faster_rcnn"), small_state("mask_rcnn")
    save_torch_file(content(one, two), folder / "x.pth")
    with pytest.raises(ValueError, match="several networks, under 'student.?', 'teacher.?'.*state"):
        mlx_rcnn.load(folder / "x.pth")
    assert "Mask" in mlx_rcnn.load(folder / "x.pth", state="teacher").source
    with pytest.raises(ValueError, match="'nobody' is not in it"):
        mlx_rcnn.load(folder / "x.pth", state="nobody")


def test_a_detector_beside_another_network(small_state) -> None:
    other = {"conv.weight": mx.zeros((1, 1, 3, 3))}
    found = state_dict_of({"net": small_state("faster_rcnn"), "tracker": other}, "f", None, knows)
    assert "rpn.head.cls_logits.weight" in found


def test_a_pickled_module_is_told_to_save_its_state_dict() -> None:
    content = {"model": Opaque("torch.nn.modules.linear.Linear"), "epoch": 1}
    with pytest.raises(ValueError, match=r"'model' is a pickled torch.*Linear.*state_dict\(\)"):
        state_dict_of(content, "f")


FOREIGN = {
    "m.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:" + bytes(100), "an ONNX file"),
    "renamed.pth": (b"\x08\x07\x12\x07pytorch" + bytes(100), "an ONNX file"),
    "m.mlmodel": (b"\x08\x04\x12\x81\x02\x0a\xff" + bytes(100), "Core ML"),
    "frozen.pb": (b"\n\x12\n\x05input\x12" + bytes(100), "TensorFlow"),
    "lite.pth": (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
    "yolov3.weights": (b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(100), "Darknet"),
    "page.pth": (b"<!DOCTYPE html><html>404</html>", "HTML page"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z archive"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_tools_are_named(folder: Path, name: str) -> None:
    data, what = FOREIGN[name]
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: expected a checkpoint, got .*{what}"):
        load_torch_file(folder / name)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"model/model.pth": b"x"}, "zip archive with model/model.pth in it: unpack it first"),
        ({"a.npy": b"x"}, "npz"),
        ({"config.json": b"{}", "model.weights.h5": b"x"}, "Keras"),
        ({"m/data.pkl": b"\x80\x02cultralytics.nn.tasks\nDetectionModel\n."}, "YOLO"),
        ({"notes.txt": b"x"}, "expected a torch.save archive"),
    ],
)
def test_zip_archives_of_others(folder: Path, entries: dict[str, bytes], what: str) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "x.pth", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=what):
        load_torch_file(folder / "x.pth")


def test_keys_of_yolo_are_told(folder: Path) -> None:
    state = {f"model.{i}.conv.weight": mx.zeros((1, 1, 1, 1)) for i in range(9)}
    save_torch_file(state, folder / "x.pth")
    with pytest.raises(ValueError, match="a YOLO of Ultralytics"):
        mlx_rcnn.load(folder / "x.pth")
