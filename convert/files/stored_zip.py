"""The directory of an uncompressed zip archive, checked before anything is read from it.

The standard library's reader trusts declared sizes and keeps about fifteen bytes of memory for each
byte of a hostile directory; ``torch.save`` needs only the part of the format read here.
"""

from __future__ import annotations

import struct

from .safe_values import Budget, CheckpointError, describe

_END = struct.Struct("<4s4H2IH")  # end of central directory
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")  # central directory
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY_PRICE = 512  # bytes of memory for one entry of the result, from above


def read_stored_zip(data: memoryview, budget: Budget) -> dict[str, memoryview | None]:
    """An archive's entries, views of ``data`` by name in its order; None for one never unpacked."""
    # Zip64 is understood. A CheckpointError: the archive is cut short; a name repeats, is absolute
    # or climbs with ``..``; an entry lies outside the file or on another one.
    count, position, size = _find_directory(data)
    directory = data[position : position + size]
    entries: dict[str, memoryview | None] = {}
    total = at = 0
    for _ in range(count):
        budget.spend(_ENTRY_PRICE)
        # contents: None for a compressed or encrypted entry
        name, contents, at = _read_entry(data, directory, at)
        if name in entries:
            raise CheckpointError(f"zip archive holds {describe(name)} twice")
        entries[name] = contents
        total += 0 if contents is None else len(contents)
        if total > len(data):
            raise CheckpointError(
                f"zip entries overlap: together more than {total} bytes in a file of {len(data)}"
            )
    return entries


def _unpack(form: struct.Struct, magic: bytes, data: memoryview, at: int, what: str) -> list[int]:
    if not 0 <= at <= len(data) - form.size or bytes(data[at : at + 4]) != magic:
        raise CheckpointError(f"zip archive is damaged: no {what} at byte {at} of {len(data)}")
    return list(form.unpack_from(data, at)[1:])


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Count, position and size of the central directory."""
    tail = bytes(data[-(_END.size + 0xFFFF) :])
    found = tail.rfind(b"PK\5\6")
    if found < 0:
        raise CheckpointError(
            f"zip archive of {len(data)} bytes has no directory at its end: it is cut short, the "
            "download or copy probably stopped"
        )
    at = len(data) - len(tail) + found
    *_, count, size, position, _ = _unpack(_END, b"PK\5\6", data, at, "end of directory")
    locator = at - _LOCATOR64.size
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
        _, at, _ = _unpack(_LOCATOR64, b"PK\6\7", data, locator, "zip64 locator")
        end64 = _unpack(_END64, b"PK\6\6", data, at, "zip64 end of directory")
        count, size, position = end64[-3:]
    if position + size > at or count * _ENTRY.size > size:
        raise CheckpointError(
            f"zip directory of {count} entries, {size} bytes at {position}, does not fit before "
            f"byte {at}"
        )
    return count, position, size


def _read_entry(
    data: memoryview, directory: memoryview, at: int
) -> tuple[str, memoryview | None, int]:
    """Name and contents of the entry at ``at``, and where the next one starts."""
    fields = _unpack(_ENTRY, b"PK\1\2", directory, at, "directory entry")
    _, _, flags, method, _, _, _, packed, size, name_len, extra_len, note_len = fields[:12]
    position = fields[15]
    at += _ENTRY.size
    raw_name = bytes(directory[at : at + name_len])
    extra = directory[at + name_len : at + name_len + extra_len]
    name = _check_name(raw_name)
    following = at + name_len + extra_len + note_len
    if following > len(directory):
        raise CheckpointError(f"zip archive is damaged: entry {name} runs past the directory")
    if method != 0 or flags & 1:
        return name, None, following
    size, packed, position = _wide(extra, [size, packed, position])
    header = _unpack(_LOCAL, b"PK\3\4", data, position, f"header of {name}")
    start = position + _LOCAL.size
    if bytes(data[start : start + header[8]]) != raw_name:
        raise CheckpointError(f"zip entry {name} has another name in its own header")
    start += header[8] + header[9]
    if size != packed or start + size > len(data):
        raise CheckpointError(
            f"zip entry {name} declares {size} bytes, {packed} of them stored, at byte {start} of "
            f"a file of {len(data)}"
        )
    return name, data[start : start + size], following


def _wide(extra: memoryview, values: list[int]) -> list[int]:
    """Replaces each 0xFFFFFFFF by its 64-bit value from the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, n = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + n]
            numbers = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
            return [next(numbers, v) if v == 0xFFFFFFFF else v for v in values]
        at += 4 + n
    return values


def _check_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"zip entry name {describe(raw)} is not UTF-8") from error
    parts = name.removesuffix("/").split("/")
    if "\\" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
        raise CheckpointError(f"zip entry has an unsafe name: {describe(name)}")
    return name
