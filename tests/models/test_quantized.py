"""Box heads in a few bits: the arithmetic, on disk, on the command line, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import ProposalNetwork
from mlx_rcnn.checkpoints.export import export_state
from mlx_rcnn.checkpoints.weights import assign, flat_parameters
from mlx_rcnn.cli.main import main
from mlx_rcnn.config.quantization import Quantization
from mlx_rcnn.layers import Linear, QuantizedLinear
from mlx_rcnn.models.quantized import quantization_of, restored
from mlx_rcnn.training.config import TrainConfig
from mlx_rcnn.training.prepare import prepare_model
from small import BACKBONE, photo, same, untrained


def floats(kind: str = "faster_rcnn", **options: Any) -> Any:
    mx.random.seed(3)
    return untrained(kind, **options)


def in_bits(kind: str = "faster_rcnn", bits: int = 8, **options: Any) -> Any:
    model = floats(kind, **options)
    mlx_rcnn.quantize(model, bits=bits, group_size=32)
    return model


@pytest.mark.parametrize("bits", [4, 8])
def test_the_weights_are_the_nearest_of_each_group(bits: int) -> None:
    """Of the evenly spaced values that a group of 32 neighbours of a row has, which span it."""
    layer = Linear(96, 24)
    weights = np.array(layer.weight, np.float64).reshape(24, 3, 32)
    low, high = weights.min(axis=2, keepdims=True), weights.max(axis=2, keepdims=True)
    found = QuantizedLinear(layer, Quantization(32, bits))
    got = np.array(found.restored(), np.float64).reshape(24, 3, 32)
    scales, offsets = (np.array(v, np.float64)[..., None] for v in (found.scales, found.biases))
    levels = offsets + scales * np.arange(2**bits)  # (24, 3, levels)
    near = np.abs(levels[..., None, :] - weights[..., None]).min(axis=-1)
    np.testing.assert_allclose(np.abs(got - weights), near, atol=1e-6)
    step = (high - low) / (2**bits - 1)
    assert (levels.min(axis=2, keepdims=True) <= low + step).all()
    assert (levels.max(axis=2, keepdims=True) >= high - step).all()
    assert found.weight.nbytes == 24 * 96 * bits // 8 and found.weight.dtype == mx.uint32
    assert (found.in_features, found.out_features) == (96, 24)
    x = mx.random.normal((7, 96))
    theirs = nn.QuantizedLinear.from_linear(layer, 32, bits)
    np.testing.assert_allclose(np.array(found(x)), np.array(theirs(x)), atol=1e-5)
    np.testing.assert_allclose(
        np.array(found(x)), np.array(x) @ got.reshape(24, 96).T + np.array(layer.bias), atol=1e-5
    )


@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade_rcnn", "fast_rcnn"])
def test_only_box_heads_change_and_compute_with_the_restored_weights(kind: str) -> None:
    model, plain = in_bits(kind, box_score_thresh=0.0), floats(kind, box_score_thresh=0.0)
    before, after = flat_parameters(plain), restored(model)
    changed = {k for k in before if not mx.array_equal(before[k], after[k])}
    assert before.keys() == after.keys()
    assert changed and all(".box_head." in k and k.endswith(".weight") for k in changed)
    assign(plain, after, "restored")
    given = (np.array([[0, 0, 50, 60], [20, 30, 90, 99]], np.float32),)
    given = given if kind == "fast_rcnn" else ()
    same(model.predict(photo(), *given)[0], plain.predict(photo(), *given)[0])


@pytest.mark.parametrize(("bits", "dtype"), [(8, "float32"), (4, "bfloat16")])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, bits: int, dtype: str) -> None:
    plain = floats("cascade_rcnn", box_score_thresh=0.0)
    mlx_rcnn.save(plain, tmp_path / "float")
    model: Any = mlx_rcnn.load(tmp_path / "float", dtype=dtype)
    mlx_rcnn.quantize(model, bits=bits, group_size=32)
    model.dtype = None  # as it is stored
    mx.random.seed(5)
    drawn = np.array(mx.random.normal((3,)))
    mx.random.seed(5)
    mlx_rcnn.save(model, tmp_path / "bits")
    assert np.array_equal(np.array(mx.random.normal((3,))), drawn)
    content = json.loads((tmp_path / "bits/config.json").read_text())
    told = {"group_size": 32, "bits": bits, "mode": "affine"}
    assert content["quantization"] == told == content["quantization_config"]
    again: Any = mlx_rcnn.load(tmp_path / "bits")
    assert quantization_of(again) == Quantization(32, bits)
    ours, theirs = flat_parameters(model), flat_parameters(again)
    assert ours.keys() == theirs.keys()
    assert all(ours[k].dtype == theirs[k].dtype for k in ours)
    assert all(mx.array_equal(ours[k], theirs[k]) for k in ours)
    assert str(theirs["roi_heads.box_head.0.fc6.scales"].dtype).endswith(dtype)
    same(model.predict(photo())[0], again.predict(photo())[0])
    # MLX alone reads the file so.
    file, head = mx.load(str(tmp_path / "bits/model.safetensors")), "roi_heads.box_head.1.fc7"
    parts = (file[f"{head}.{part}"] for part in ("weight", "scales", "biases"))
    assert mx.array_equal(mx.dequantize(*parts, **told), restored(model)[f"{head}.weight"])


def test_a_half_type_is_computed_in(tmp_path: Path) -> None:
    mlx_rcnn.save(in_bits(box_score_thresh=0.0), tmp_path / "m")
    [wide] = mlx_rcnn.load(tmp_path / "m").predict(photo())
    [half] = mlx_rcnn.load(tmp_path / "m", dtype="bfloat16").predict(photo())
    assert not np.array_equal(wide["scores"], half["scores"])
    np.testing.assert_allclose(wide["scores"][:5], half["scores"][:5], atol=0.05)


def test_what_cannot_be_is_one_line() -> None:
    model = floats()
    for options, message in (
        ({"bits": 3}, "bits=3: expected 4 or 8; the nearest is 4"),
        ({"bits": 16}, "bits=16: expected 4 or 8; the nearest is 8"),
        ({"group_size": 50}, "group_size=50: expected 32, 64 or 128; the nearest is 64"),
        ({}, "group_size=64 does not divide the 1568 inputs of roi_heads.box_head.fc6: expected 3"),
    ):
        with pytest.raises(ValueError, match=message):
            mlx_rcnn.quantize(model, **options)
    with pytest.raises(TypeError, match="bits=8.0: expected an integer"):
        mlx_rcnn.quantize(model, bits=8.0)  # type: ignore[arg-type]
    assert quantization_of(model) is None
    with pytest.raises(ValueError, match="ProposalNetwork without linear layers in a box head"):
        mlx_rcnn.quantize(ProposalNetwork(BACKBONE, 32, 2, use_fpn=True))


def test_it_is_not_trained_and_not_made_twice() -> None:
    model = in_bits()
    with pytest.raises(ValueError, match="quantised already, in 8 bits: expected the one it was"):
        mlx_rcnn.quantize(model)
    with pytest.raises(ValueError, match="quantised in 8 bits, which cannot be trained"):
        model.get_loss([photo()], [{"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}])
    names = ("b", *"wxyz")
    with pytest.raises(ValueError, match="quantised in 8 bits, which cannot be trained"):
        prepare_model(model, names, TrainConfig())


def test_other_libraries_and_other_models_get_restored_weights() -> None:
    model, plain = in_bits(), floats()
    assign(plain, restored(model), "restored")
    ours, theirs = export_state(model, "torchvision"), export_state(plain, "torchvision")
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[k], theirs[k]) for k in ours)
    named = dict(tree_flatten(model.parameters()))
    assert named["roi_heads.box_head.fc6.weight"].dtype == mx.uint32  # it is as it was


def test_the_command_line(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mlx_rcnn.save(floats(), "float")
    flags = ("--quantize", "--q-bits", "4", "--q-group-size", "32")
    assert main(["convert", "float", "bits", *flags, "--verify"]) == 0
    assert "tensors are the model's, bit for bit" in capsys.readouterr().out
    card = Path("bits/README.md").read_text()
    assert "mlx_rcnn convert float bits --quantize --q-bits 4 --q-group-size 32" in card
    assert main(["info", "--model", "float"]) == 0
    plain = capsys.readouterr().out
    assert main(["info", "--model", "bits"]) == 0
    out = capsys.readouterr().out
    assert "the box head's linear layers in 4 bits, affine, groups of 32" in out
    assert out.splitlines()[-1] == plain.splitlines()[-1]  # as many parameters
    assert main(["convert", "bits", "back.pth", "--to", "torchvision"]) == 0
    out = capsys.readouterr().out
    assert "its box head was restored from 4 bits: torchvision has no such layers" in out
    for words, message in (
        (("-q", "--q-bits", "3"), "--q-bits 3: expected 4 or 8; the nearest is 4"),
        (("-q",), "--q-group-size 64 does not divide the 1568 inputs of roi_heads.box_head.fc6"),
        (("--q-bits", "4"), "--q-bits goes with --quantize"),
        (("--q-group-size", "32"), "--q-group-size goes with --quantize"),
    ):
        assert main(["convert", "float", "other", *words]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1 and not Path("other").exists()
    assert main(["convert", "float", "x.pth", "-q", "--to", "torchvision"]) == 2
    assert "--quantize goes with --to mlx" in capsys.readouterr().err


def test_a_file_s_fields_are_checked(tmp_path: Path) -> None:
    mlx_rcnn.save(in_bits(), tmp_path / "m")
    file = tmp_path / "m/config.json"
    content = json.loads(file.read_text())
    for value, message in (
        ({"bits": 3, "group_size": 32}, "config.json: bits=3: expected 4 or 8"),
        ({"bits": 8, "group_size": 32, "mode": "mxfp8"}, "mode='mxfp8': expected one of"),
        ({"bits": 8, "roi_heads": False}, "quantization=.*expected an object of bits, group_size"),
        (None, "does not fit the model: unexpected .*not float32"),
    ):
        file.write_text(json.dumps({**content, "quantization": value}))
        with pytest.raises(ValueError, match=message):
            mlx_rcnn.load(tmp_path / "m")
