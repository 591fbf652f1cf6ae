"""The pieces that packets are made of (MQTT 5 §1.5, §2.1): lengths, and fields one after the other. No packet is known here."""

from __future__ import annotations


def header_size(packet: bytes | memoryview, offset: int = 0) -> int:
    """Bytes of the fixed header of a whole packet that begins at `offset`. Raises IndexError."""
    size = 2
    while packet[offset + size - 1] & 0x80:
        size += 1
    return size


def variable(value: int) -> bytes:
    """A variable byte integer (§1.5.5)."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | 0x80 if value else low)
        if not value:
            return bytes(out)


class Fields:
    """Fields from `at` on. Raises IndexError beyond the end, UnicodeDecodeError for a string that is not UTF-8."""

    def __init__(self, data: bytes, at: int) -> None:
        self.at = at
        self._data = data

    @property
    def over(self) -> bool:
        """Nothing is left."""
        return self.at >= len(self._data)

    def byte(self) -> int:
        """One byte."""
        self.at += 1
        return self._data[self.at - 1]

    def number(self) -> int:
        """Two bytes."""
        return self.byte() << 8 | self.byte()

    def variable(self) -> int:
        """A variable byte integer (§1.5.5)."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 21:
                raise IndexError("a variable byte integer of more than four bytes")

    def skip(self, size: int) -> None:
        """So many bytes are of no concern."""
        self.at += size

    def data(self) -> bytes:
        """Binary data: two bytes of length, then so many."""
        size = self.number()
        self.at += size
        if self.at > len(self._data):
            raise IndexError("a field that is longer than its packet")
        return self._data[self.at - size : self.at]

    def text(self) -> str:
        """A string (§1.5.4)."""
        return self.data().decode()
