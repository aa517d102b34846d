"""Objects of classes nobody here knows, beside the tensors: let through as names, and no more."""

from __future__ import annotations

import argparse
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.convert.files.safe_values import Opaque
from mlx_rcnn.convert.files.torch_file import (
    UnsafeCheckpointError,
    load_pickle_file,
    load_torch_file,
)
from mlx_rcnn.convert.libraries.architecture import hints_of
from torch_pickles import GOOD, archive, call, equal, fails, name, put, text, traced_peak

NEW, BUILD = b")\x81", b"b"
FOREIGN = name("mmengine.logging.history_buffer", "HistoryBuffer")


def entries(**values: bytes) -> bytes:
    """A dict as a pickle spells it."""
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def foreign(module: str, class_name: str, base: type = object) -> type:
    """A class that pickles under another module's name."""
    return type(class_name, (base,), {"__module__": module})


@pytest.fixture
def mmengine_like(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a checkpoint of mmdetection 3 holds, with classes of the same names."""
    buffer = foreign("mmengine.logging.history_buffer", "HistoryBuffer")
    config = foreign("mmcv.utils.config", "ConfigDict", dict)
    for kind in (buffer, config):
        parts = kind.__module__.split(".")
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, full, types.ModuleType(full))
        setattr(sys.modules[kind.__module__], kind.__name__, kind)
    log = buffer()
    log.__dict__ |= {"max_length": 10, "_log_history": np.arange(3.0)}
    return {
        "meta": {
            "cfg": "style='caffe'",
            "dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]},
            "mmdet": config(a=config(b=1)),
            "time": np.float64(3.0),
        },
        "state_dict": {"w": np.ones((2, 3), np.float32)},
        "message_hub": {"log_scalars": {"loss": log}, "classes": [buffer]},
        "args": argparse.Namespace(lr=0.02, path="x"),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_are_names(tmp_path: Path, mmengine_like: dict[str, Any], protocol: int) -> None:
    path = put(tmp_path, pickle.dumps(mmengine_like, protocol))
    read = load_pickle_file(path)
    buffer = Opaque("mmengine.logging.history_buffer.HistoryBuffer")
    assert read["message_hub"] == {"log_scalars": {"loss": buffer}, "classes": [buffer]}
    assert read["args"] == Opaque("argparse.Namespace")
    assert read["meta"]["mmdet"] == Opaque("mmcv.utils.config.ConfigDict")
    assert read["meta"]["time"] == 3.0
    equal(read["state_dict"]["w"], np.ones((2, 3)))
    hints = hints_of(read, "x.pth")
    assert hints.class_names == ("cat", "dog") and hints.config == "style='caffe'"


def test_in_a_file_of_torch(tmp_path: Path) -> None:
    """Torchvision's training reference saves its arguments under ``args``."""
    made = name("argparse", "Namespace") + NEW + entries(lr=b"K\x02", x=GOOD) + BUILD
    body = entries(model=entries(w=GOOD), args=made, again=FOREIGN + NEW + b"}" + BUILD)
    read = load_torch_file(put(tmp_path, archive(body)))
    equal(read["model"]["w"], np.arange(6).reshape(2, 3))
    assert read["args"] == Opaque("argparse.Namespace")


def test_nothing_is_imported_or_made(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "hostile.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        body = entries(w=GOOD, x=name("hostile", "Evil") + NEW + entries(a=b"N") + BUILD)
        read = load_torch_file(put(tmp_path, archive(body)))
    finally:
        sys.path.remove(str(tmp_path))
    assert read["x"] == Opaque("hostile.Evil")
    assert "hostile" not in sys.modules and not mark.exists()


@pytest.mark.parametrize(
    ("piece", "match"),
    [
        (call("mmengine.config", "Config", text("x")), "a call of mmengine.config.Config"),
        (call("subprocess", "Popen", text("touch x")), "refused subprocess.Popen"),
        (name("subprocess", "Popen") + NEW, "refused subprocess.Popen"),
        (name("os", "PathLike") + NEW, "refused os.PathLike"),
        (name("importlib.machinery", "SourceFileLoader") + NEW, "SourceFileLoader"),
        (name("mmengine", "load") + NEW, "refused mmengine.load"),
        (name("a", "B.c"), "refused a.B.c"),
        (name("a", "B.C"), "refused a.B.C"),
        (name("a", "__class__"), "refused a.__class__"),
        (FOREIGN + b"}" + BUILD, "BUILD on mmengine.logging"),
        (FOREIGN + NEW + b")R", "a call of mmengine.logging"),
        (FOREIGN + NEW + b")}\x92", "NEWOBJ_EX"),
        (FOREIGN + NEW + NEW, "NEWOBJ"),
        (call("builtins", "int", text("1")), "a call of builtins.int"),
        (name("builtins", "dict") + NEW, "NEWOBJ"),
    ],
)
def test_what_is_more_than_an_object_is_refused(tmp_path: Path, piece: bytes, match: str) -> None:
    path = put(tmp_path, archive(entries(w=GOOD, x=piece)))
    fails(path, match, UnsafeCheckpointError)


def test_an_object_takes_items_and_forgets_them(tmp_path: Path) -> None:
    """Classes derived from dict and list are filled like them."""
    like_dict = FOREIGN + NEW + b"(" + text("a") + GOOD + b"u" + text("b") + b"Ns"
    like_list = FOREIGN + NEW + b"(NNe" + b"Na"
    shared = FOREIGN + NEW + b"q\x05" + b"}" + text("me") + b"h\x05sb"
    body = entries(w=GOOD, x=like_dict, y=like_list, z=shared)
    read = load_torch_file(put(tmp_path, archive(body)))
    assert {read[key] for key in "xyz"} == {Opaque("mmengine.logging.history_buffer.HistoryBuffer")}


def test_many_objects_are_counted(tmp_path: Path) -> None:
    """A file of n bytes may not make more of them than its size explains."""
    many = b"](" + (FOREIGN + b"q\x01") + b"h\x01)\x81" * 200_000 + b"e"
    path = put(tmp_path, archive(many))
    fails(path, "more than .* bytes of memory")
    peak = traced_peak(lambda: fails(path, "bytes of memory"))
    assert peak < 8 * path.stat().st_size + 2**24


def test_default_dicts(tmp_path: Path) -> None:
    body = call("collections", "defaultdict", name("builtins", "list")) + text("a") + b"K\x01s"
    read = load_torch_file(put(tmp_path, archive(entries(w=GOOD, d=body))))
    assert read["d"] == {"a": 1}
    assert isinstance(read["w"], mx.array)


@pytest.mark.parametrize(
    "meta",
    [
        None,
        3,
        {"CLASSES": 3},
        {"CLASSES": (1, 2)},
        {"CLASSES": ()},
        {"dataset_meta": 4},
        {"cfg": Opaque("x.Y"), "CLASSES": Opaque("x.Y")},
    ],
)
def test_hints_need_the_right_types(meta: Any) -> None:
    hints = hints_of({"meta": meta}, "x.pth")
    assert hints.class_names is None and hints.config == ""


def test_hints_of_mmdetection_2() -> None:
    meta = {"CLASSES": ["cat", "dog"], "config": "style = 'pytorch'"}
    hints = hints_of({"meta": meta, "state_dict": {}}, "x.pth", "caffe")
    assert hints[:4] == ("x.pth", "style = 'pytorch'", ("cat", "dog"), "caffe")
    assert hints_of({"meta": {"CLASSES": "cell"}}, "x").class_names == ("cell",)
