"""Reads the bytes of a pickle in place."""

from __future__ import annotations

from .safe_values import CheckpointError

_LONGEST_LINE = 4096  # text opcodes hold names and decimal numbers


class Stream:
    """The two methods that pickletools reads arguments with, on a memoryview."""

    def __init__(self, data: memoryview, position: int) -> None:
        self.data, self.position = data, position

    def view(self, n: int) -> memoryview:
        """The next ``n`` bytes; raises CheckpointError if there are fewer."""
        chunk = self.data[self.position : self.position + n]
        if not 0 <= n == len(chunk):
            raise CheckpointError(f"pickle is cut short: expected {n} bytes, {len(chunk)} are left")
        self.position += n
        return chunk

    def read(self, n: int) -> bytes:
        """A copy of the next ``n`` bytes."""
        return bytes(self.view(n))

    def readline(self) -> bytes:
        """Up to the next line feed, which is included."""
        line = bytes(self.data[self.position : self.position + _LONGEST_LINE])
        end = line.find(b"\n") + 1
        if not end:
            raise CheckpointError(f"pickle holds a line without end in {_LONGEST_LINE} bytes")
        self.position += end
        return line[:end]
