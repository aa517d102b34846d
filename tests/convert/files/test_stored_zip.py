"""Archives: damaged, deceitful and unusual ones."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from mlx_rcnn.convert.files.safe_values import Budget, CheckpointError
from mlx_rcnn.convert.files.stored_zip import read_stored_zip
from mlx_rcnn.convert.files.torch_file import load_torch_file
from torch_pickles import GOOD, SIX, archive, equal, fails, put, traced_peak

RAMP = [[0, 1, 2], [3, 4, 5]]


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """``data`` with ``value`` at ``offset`` of its last record of that signature."""
    at = data.rindex(signature) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"../evil": b"x"}, "unsafe name: ../evil"),
        ({"model/../../evil": b"x"}, "unsafe name"),
        ({"/etc/passwd": b"x"}, "unsafe name"),
        ({"model/a\\b": b"x"}, "unsafe name"),
        ({"model//x": b"x"}, "unsafe name"),
        ({"model/\x1b[2J": b"x"}, "unsafe name"),
        ({"other/data.pkl": b"x"}, "one data.pkl"),
        ({"model/code/a.py": b"x"}, "TorchScript"),
        ({"model/constants.pkl": b"x"}, "TorchScript"),
        ({"model/byteorder": b"middle"}, "byte order little or big, got b'middle'"),
    ],
)
def test_archive_entries(tmp_path: Path, extra: dict[str, bytes], match: str) -> None:
    fails(put(tmp_path, archive(extra=extra)), match)


SIZE = struct.pack("<I", 2**31)
ENTRY, END = b"PK\1\2", b"PK\5\6"


@pytest.mark.parametrize(
    ("signature", "offset", "value", "match"),
    [
        # In a directory entry: 8 flags, 10 method, 20 packed and 24 unpacked size, 42 position.
        (ENTRY, 24, SIZE, "declares 2147483648 bytes"),
        (ENTRY, 20, SIZE * 2, "declares 2147483648 bytes, 2147483648"),
        (ENTRY, 20, b"\xff" * 8, "declares 4294967295 bytes"),
        (ENTRY, 8, b"\1\0", "model/data/0 is compressed"),
        (ENTRY, 10, b"\x08\0", "model/data/0 is compressed"),
        (ENTRY, 42, SIZE, "damaged: no header of model/data/0"),
        (ENTRY, 42, bytes(4), "another name in its own header"),
        (ENTRY, 28, b"\xff\xff", "model/data/0 runs past the directory"),
        (ENTRY, 46, b"\xff", "not UTF-8"),
        (ENTRY, 0, b"XXXX", "damaged: no directory entry"),
        # In the end record: 10 entries, 12 size and 16 position of the directory.
        (END, 10, b"\xff\xff", "65535 entries"),
        (END, 12, SIZE, "does not fit"),
        (END, 16, SIZE, "does not fit"),
        (END, 0, b"XXXX", "cut short"),
    ],
)
def test_damaged_archives(
    tmp_path: Path, signature: bytes, offset: int, value: bytes, match: str
) -> None:
    equal(load_torch_file(put(tmp_path, archive())), RAMP)
    fails(put(tmp_path, patched(archive(), signature, offset, value)), match)


def test_compressed_and_repeated_entries(tmp_path: Path) -> None:
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"\x80\x02N." + bytes(10**7))
    fails(put(tmp_path, out.getvalue()), "model/data.pkl is compressed")
    with zipfile.ZipFile(out := io.BytesIO(), "w") as file:
        file.writestr("a.txt", b"x")
    fails(put(tmp_path, out.getvalue()), r"one data.pkl, it holds \['a.txt'\]")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(extra={"model/data/0": SIX})
    fails(put(tmp_path, twice), "holds model/data/0 twice")


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    # A header inside another entry's contents: both entries hold the same 40,000 bytes.
    inner = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 40000, 40000, 6, 0) + b"model/"
    with zipfile.ZipFile(out := io.BytesIO(), "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02N.")
        file.writestr("model/x", inner + bytes(40000))
        file.writestr("model/", b"")
    data = patched(out.getvalue(), ENTRY, 20, struct.pack("<2I", 40000, 40000))
    data = patched(data, ENTRY, 42, struct.pack("<I", data.index(inner)))
    fails(put(tmp_path, data), "zip entries overlap")


def test_zip64_and_any_root(tmp_path: Path) -> None:
    with zipfile.ZipFile(out := io.BytesIO(), "w") as file:
        with file.open("épreuve 1/data.pkl", "w", force_zip64=True) as entry:
            entry.write(b"\x80\x02" + GOOD + b".")
        file.writestr("épreuve 1/data/0", SIX)
    equal(load_torch_file(put(tmp_path, out.getvalue())), RAMP)
    # The end of a zip64 archive: its own record, a locator, then the old record filled with ones.
    data = archive()
    at = data.rindex(END)
    count, size, position = struct.unpack("<HII", data[at + 10 : at + 20])
    # The last entry's sizes and position move to a zip64 extra field of 4 + 24 bytes.
    last = data.rindex(ENTRY)
    (start,) = struct.unpack("<I", data[last + 42 : last + 46])
    data = patched(patched(data, ENTRY, 20, b"\xff" * 8), ENTRY, 42, b"\xff" * 4)
    data = patched(data, ENTRY, 30, struct.pack("<H", 28))[:at]
    data += struct.pack("<2H3Q", 1, 24, len(SIX), len(SIX), start)
    at, size = at + 28, size + 28
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, position)
    end = struct.pack("<4s4H2IH", END, 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    for where, match in ((at, None), (2**63, "no zip64 end"), (0, "no zip64 end")):
        path = put(tmp_path, data + end64 + struct.pack("<4sIQI", b"PK\6\7", 0, where, 1) + end)
        if match:
            fails(path, match)
        else:
            equal(load_torch_file(path), RAMP)


def test_directory_is_bounded_by_the_file() -> None:
    count = 20000
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 5, 0)
    entry = struct.pack("<4s6H3I5H1I", ENTRY, 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0)
    files = b"".join(local + b"%05d" % i for i in range(count))
    entries = b"".join(entry + struct.pack("<I", i * 35) + b"%05d" % i for i in range(count))
    end = struct.pack("<4s4H2IH", END, 0, 0, count, count, len(entries), len(files), 0)
    data = memoryview(files + entries + end)
    assert len(read_stored_zip(data, Budget(10**8, "it"))) == count

    def read() -> None:
        with pytest.raises(CheckpointError, match="it would take more than 2000000 bytes"):
            read_stored_zip(data, Budget(2 * 10**6, "it"))

    assert traced_peak(read) < 2 * 10**6
