"""Checkpoint files with torch's keys, whole, wrong and hostile; directories that are no models."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn.layers import BatchNorm, FrozenBatchNorm
from small import MASK_OPTIONS, OPTIONS, old_name, photo, with_counts
from torch_pickles import archive, call, legacy, text

State = dict[str, mx.array]
KINDS = ("faster_rcnn", "mask_rcnn")
SIZES = {name: OPTIONS[name] for name in OPTIONS if name.startswith(("min", "max", "rpn"))}


def put(folder: Path, state: State) -> Path:
    path = folder / "model.safetensors"
    mx.save_safetensors(str(path), state)
    return path


def refused(path: Path, match: str, **overrides) -> str:
    """Checks that loading fails in one short line that names the file."""
    with pytest.raises(ValueError, match=match) as caught:
        mlx_rcnn.load(path, **overrides)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 800 + len(str(path))
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_with_torchs_keys(
    folder: Path, small_state: Callable[[str], State], small_model, kind: str
) -> None:
    model = mlx_rcnn.load(put(folder, small_state(kind)), norm_eps=0.0, **SIZES)
    assert "model.safetensors: torchvision" in model.source and "5 classes" in model.source
    want, got = small_model(kind).predict(photo())[0], model.predict(photo())[0]
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])
    if kind == "mask_rcnn":
        assert model.config.mask_num_convs == MASK_OPTIONS["mask_num_convs"]


def test_names_of_2019_give_the_same_model(
    folder: Path, small_state: Callable[[str], State]
) -> None:
    new = small_state("mask_rcnn")
    old = {old_name(key): value for key, value in new.items()}
    assert old.keys() != new.keys()
    model = mlx_rcnn.load(put(folder, new))
    again = mlx_rcnn.load(put(folder, old))
    assert again.config == model.config
    for (a, x), (b, y) in zip(
        tree_flatten(model.parameters()), tree_flatten(again.parameters()), strict=True
    ):
        assert a == b and mx.array_equal(x, y)


def test_frozen_norms_and_their_epsilon(folder: Path, small_state: Callable[[str], State]) -> None:
    model = mlx_rcnn.load(put(folder, small_state("faster_rcnn")))
    norm = model.backbone.net.bn1
    # A ResNet-18, which torchvision has not published: tests/convert/libraries/test_torchvision.py
    # has those
    assert isinstance(norm, FrozenBatchNorm) and norm.eps == 1e-5
    changed = mlx_rcnn.load(folder / "model.safetensors", norm_eps=0.0)
    assert changed.backbone.net.bn1.eps == 0.0


def test_batch_norm_checkpoint(folder: Path, small_state: Callable[[str], State]) -> None:
    model = mlx_rcnn.load(put(folder, with_counts(small_state("faster_rcnn"))), **SIZES)
    norm = model.backbone.net.layer1[0].bn2
    assert type(norm) is BatchNorm and norm.eps == 1e-5 and not norm.training
    assert len(model.predict(photo())) == 1


def test_half_precision_checkpoint(folder: Path, small_state: Callable[[str], State]) -> None:
    state = {key: v.astype(mx.bfloat16) for key, v in small_state("faster_rcnn").items()}
    model = mlx_rcnn.load(put(folder, state), **SIZES)
    assert model.backbone.net.conv1.weight.dtype == mx.bfloat16
    assert model.predict(photo())[0]["scores"].dtype == np.float32
    assert mlx_rcnn.load(folder / "model.safetensors", dtype="float32")


def test_other_anchors_by_override(folder: Path, small_state: Callable[[str], State]) -> None:
    state = dict(small_state("faster_rcnn"))
    for key in ("cls_logits", "bbox_pred"):
        for kind in ("weight", "bias"):
            value = state[f"rpn.head.{key}.{kind}"]
            state[f"rpn.head.{key}.{kind}"] = mx.concatenate([value, value])
    path = put(folder, state)
    refused(path, "misshaped 'rpn.head.cls_logits.weight")
    model = mlx_rcnn.load(path, anchor_sizes=[[s, 1.5 * s] for s in (32, 64, 128, 256, 512)])
    assert model.rpn.head.num_anchors == 6


def test_wrong_weights_in_a_file(folder: Path, small_state: Callable[[str], State]) -> None:
    state = small_state("faster_rcnn")
    key = "backbone.body.layer2.0.conv1.weight"
    without = {k: v for k, v in state.items() if k != key}
    refused(put(folder, without), "missing 'backbone.net.layer2.0.conv1.weight'")
    refused(put(folder, {**state, key: state[key][:, 1:]}), r"misshaped .*layer2.0.conv1.weight")
    inside = {**state, "rpn.neck.weight": mx.zeros((1,))}
    refused(put(folder, inside), "no rule for 'rpn.neck.weight'")
    with pytest.warns(UserWarning, match="left out, as no part of the network: 'neck.weight'"):
        mlx_rcnn.load(put(folder, {**state, "neck.weight": mx.zeros((1,))}))
    whole = {**state, key: state[key].astype(mx.int32)}
    refused(put(folder, whole), "not float32, float16 or bfloat16: 'backbone.net.layer2.0.conv1")
    empty = {"conv1.weight": mx.zeros((1,)), "layer1.0.conv1.weight": mx.zeros((1,))}
    refused(put(folder, {**empty, "fc.weight": mx.zeros((1,))}), "this is a ResNet classifier")
    refused(put(folder, empty), "not a Faster, Mask or Keypoint R-CNN")


def test_mlx_weights_without_their_config(saved: Path) -> None:
    refused(saved / "model.safetensors", "holds MLX weights: give its directory")


HUGE = (10**9, 2**40, 2**70)


@pytest.mark.parametrize(
    "name", ["mask_num_convs", "num_classes", "hidden_dim", "feat_channels", "mask_hidden_channels"]
)
def test_numbers_no_model_has(folder: Path, fresh_model, name: str) -> None:
    """Refused at once, before a layer is made for each."""
    mlx_rcnn.save(fresh_model("mask_rcnn"), folder / "m")
    file = folder / "m" / "config.json"
    config = json.loads(file.read_text())
    for value in HUGE:
        file.write_text(json.dumps({**config, name: value}))
        with pytest.raises(ValueError, match="too large to exist|at most|misshaped"):
            mlx_rcnn.load(folder / "m")


def test_a_damaged_record_of_the_origin(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "origin": {"library": 1}}))
    with pytest.raises(ValueError, match="config.json: origin is no record"):
        mlx_rcnn.load(saved)


def test_detectors_of_deeplabcut(folder: Path, small_state: Callable[[str], State]) -> None:
    """Snapshots of its detectors: torchvision's network as `model`, NumPy numbers beside it."""
    state = {f"model.{k}": np.array(v) for k, v in with_counts(small_state("faster_rcnn")).items()}
    snapshot = {
        "model": state,
        "metadata": {"epoch": 250, "metrics": {"test.mAP@50:95": np.float64(0.9)}, "losses": {}},
        "optimizer": {"state": {0: {"step": np.array(3.0)}}, "param_groups": [{"lr": 1e-4}]},
    }
    path = folder / "snapshot-detector-250.pkl"
    path.write_bytes(pickle.dumps(snapshot, 4))
    model = mlx_rcnn.load(path)
    assert model.config.num_classes == 5 and "snapshot-detector-250.pkl" in model.source
    expected = mlx_rcnn.load(put(folder, with_counts(small_state("faster_rcnn"))))
    for (a, x), (b, y) in zip(
        tree_flatten(model.parameters()), tree_flatten(expected.parameters()), strict=True
    ):
        assert a == b and mx.array_equal(x, y)


HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.safetensors", "model"])
@pytest.mark.parametrize("data", [HTML, b"", b"some text\n", bytes(range(64)), b"PK\x03\x04ab"])
def test_files_that_are_no_checkpoints(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    message = refused(folder / name, "model")
    if data == HTML and not name.endswith("safetensors"):
        assert "HTML" in message


def test_truncated_safetensors(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = path.read_bytes()
    for size in (0, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
            mlx_rcnn.load(saved)


class Command:
    """Unpickled by Python, this runs a command of the shell."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_runs_a_command_is_refused_by_name(folder: Path) -> None:
    marker, path = folder / "ran", folder / "model.pth"
    plain = pickle.dumps({"model": Command(marker)})
    body = call("os", "system", text(f"touch {marker}"))
    hidden = call("builtins", "eval", text(f"open('{marker}', 'w')"))
    for data in (plain, archive(body), legacy(body), archive(hidden), legacy(hidden)):
        path.write_bytes(data)
        refused(path, r"(system|eval)")
        assert not marker.exists()
    pickle.loads(plain)
    assert marker.exists()  # the attack works where it is let


def test_no_such_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for source in ("nothing.pth", Path("no/such"), "fasterrcnn_resnet50", "torchvision/alexnet"):
        with pytest.raises(FileNotFoundError, match="no model .* expected a directory") as caught:
            mlx_rcnn.load(source)
        assert "fasterrcnn_resnet50_fpn" in str(caught.value)


def test_directories_that_are_no_models(saved: Path, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no config.json: expected a directory"):
        mlx_rcnn.load(folder / "empty")
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="saved has no model.safetensors"):
        mlx_rcnn.load(saved)


def edited(**changes) -> Callable[[dict], object]:
    return lambda config: {**config, **changes}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: [c], "holds a list, expected a config"),
        (lambda c: None, "holds a NoneType, expected a config"),
        (lambda c: {"architectures": ["Llama"]}, "has no 'model_type', 'format_version'"),
        (edited(model_type="llama"), "model_type 'llama' of format 1, expected one of"),
        (edited(model_type=["faster_rcnn"]), "expected one of"),
        (edited(format_version=2), "of format 2, expected one of .* of format 1"),
        (edited(num_classes="five"), "num_classes='five': expected an integer"),
        (edited(num_classes=6), "misshaped"),
        (edited(learning_rate=1), "has no field 'learning_rate'"),
        (edited(backbone={"depth": 19}), "depth=19: expected one of"),
        (edited(backbone={"height": 19}), "height"),
        (edited(backbone="resnet18"), "backbone 'resnet18', expected"),
    ],
)
def test_configs_that_are_wrong(saved: Path, edit, message: str) -> None:
    file = saved / "config.json"
    file.write_text(json.dumps(edit(json.loads(file.read_text()))))
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        mlx_rcnn.load(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b'{"model_type": "faster', b"\xff\xfe\x00", HTML])
def test_configs_that_are_not_json(saved: Path, data: bytes) -> None:
    (saved / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match="config.json is not JSON"):
        mlx_rcnn.load(saved)
