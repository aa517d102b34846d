"""Files that are no checkpoints of torch, told by what they are."""

from __future__ import annotations

from collections.abc import Iterable

from .safe_values import describe

_STARTS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file: fetch that with `git lfs pull`",
    b"\x1f\x8b": "gzip data: unpack it first",
    b"\xfd7zXZ": "xz data: unpack it first",
    b"BZh": "bzip2 data: unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd data: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow)",
    b"\x93NUMPY": "a NumPy .npy file",
    b"GGUF": "a GGUF file",
    b"ftrt": "an engine of TensorRT",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"bplist": "a property list of Apple's",
}
_SUFFIXES = {
    ".onnx": "an ONNX file",
    ".mlmodel": "a Core ML model",
    ".pb": "a graph of TensorFlow",
    ".tflite": "a TensorFlow Lite model",
    ".engine": "an engine of TensorRT",
    ".weights": "weights of Darknet (YOLO)",
}
_ENTRIES = (
    ("model.weights.h5", "a Keras model"),
    ("[Content_Types].xml", "an Office document"),
    ("META-INF/MANIFEST.MF", "a Java archive"),
    ("Manifest.json", "a package of Core ML"),
)


def what_is(data: memoryview, name: str = "") -> str | None:
    """What a file without a pickle is, in a few words; ``None`` for what may be a checkpoint."""
    head = bytes(data[:1024])
    for magic, text in _STARTS.items():
        if head.startswith(magic):
            return text
    lower = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if lower.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page: it looks like HTML, so the download probably failed"
    if len(head) > 8 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < len(data):
        return "a safetensors file"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[:1] == b"\x08" or head[:1] == b"\x0a":  # the first field of a message of protobuf
        return _protobuf(head, name)
    if head[:12] in _DARKNET:
        return _SUFFIXES[".weights"]
    return _text(data, head)


_DARKNET = tuple(
    b"".join(number.to_bytes(4, "little") for number in version)
    for version in ((0, 1, 0), (0, 2, 0), (0, 2, 5))
)


def _protobuf(head: bytes, name: str) -> str:
    """ONNX, Core ML and TensorFlow all write messages of protobuf; no pickle starts as they do."""
    lower = name.lower()
    suffix = next((text for end, text in _SUFFIXES.items() if lower.endswith(end)), None)
    if suffix:
        return suffix
    if head[:1] == b"\x08" and (head[2:3] == b"\x12" or b"onnx" in head or b"torch" in head):
        # ir_version, then producer_name; Core ML's specification goes on with a message
        core = b"onnx" not in head and b"torch" not in head and b"\x0a" in head[3:6]
        return "a Core ML model" if core else "an ONNX file"
    return "a message of protobuf (ONNX, TensorFlow or Core ML)"


def _text(data: memoryview, head: bytes) -> str | None:
    text = len(head) > 3 and not head.strip(bytes([9, 10, 13, *range(32, 127)]))
    # Protocol 0 pickles are text too, but end in a dot and start with one of few opcodes.
    pickled = bytes(data[-1:]) == b"." and head[:1] in b"(cdlVIFLN]}"
    if text and not pickled:
        return f"a text file that begins {describe(head[:40].decode())}"
    return None


def what_zip(names: Iterable[str]) -> str | None:
    """What a zip archive is that ``torch.save`` did not write; ``None`` if it may have."""
    found = list(names)
    if any(name.rpartition("/")[2] == "data.pkl" for name in found):
        return None
    for entry, text in _ENTRIES:
        if any(name == entry or name.endswith(f"/{entry}") for name in found):
            return text
    if found and all(name.endswith(".npy") for name in found):
        return "a NumPy .npz file"
    if inner := [n for n in found if n.lower().endswith((".pth", ".pt", ".pkl", ".safetensors"))]:
        return f"a zip archive with {describe(inner[0])} in it: unpack it first"
    return None


def what_pickle(pickle: memoryview) -> str | None:
    """What a pickle is of, where its classes tell that it cannot be read; else ``None``."""
    text = bytes(pickle)
    if any(name in text for name in (b"cultralytics.", b"cmodels.yolo\n", b"cmodels.common\n")):
        return (
            "a YOLO of Ultralytics, a pickled model of another architecture: no R-CNN, and nothing "
            "of it is read"
        )
    return None
