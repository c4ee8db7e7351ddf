"""Numeric arrays in MATLAB's files of level 5. Own, for scipy's reader ends the process over some damaged files.

After 128 bytes of header come elements: two words, type and size, then so many bytes. An array is an element of such
elements: flags, dimensions, name and values, column by column, each padded to 8 bytes, or with a size of up to 4 in the
upper half of the type, which its bytes follow at once. It may be compressed whole.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ARRAY, _COMPRESSED = 14, 15
_NUMERIC = range(6, 16)  # classes: from double to uint64
_HEAD = 4096  # bytes of a compressed array that hold what comes before its values
_COMPLEX = 0x0800


@dataclass(frozen=True)
class Array:
    """An array as the file announces it; `read` takes its values."""

    name: str
    shape: tuple[int, ...]
    numeric: bool
    kind: str
    start: int
    element: "_Element"

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return math.prod(self.shape) * np.dtype(self.kind).itemsize if self.numeric else 0

    def read(self) -> np.ndarray:
        """Its values. Raises ValueError or zlib.error where they are not all there."""
        raw = self.element.bytes(self.start + self.nbytes + 8)  # beyond the padding, where a compressed one is checked
        return np.frombuffer(raw, self.kind, math.prod(self.shape), self.start).reshape(self.shape, order="F")


@dataclass(frozen=True)
class _Element:
    """An array's bytes, compressed or not."""

    raw: memoryview
    packed: bool

    def bytes(self, most: int) -> bytes:
        """The first ones of them, as many as there are."""
        return zlib.decompressobj().decompress(self.raw, most) if self.packed else bytes(self.raw[:most])


def arrays(raw: bytes) -> Iterator[Array]:
    """The arrays of a file, none of them read yet. Raises ValueError, struct.error or zlib.error over what is none."""
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(raw[124:128])
    if order is None:
        raise ValueError("not of level 5")
    view, at = memoryview(raw), 128
    while at < len(raw):
        kind, size = struct.unpack_from(f"{order}II", raw, at)
        if size > len(raw) - at - 8:
            raise ValueError(f"{size} bytes are due, {len(raw) - at - 8} left")
        body = view[at + 8 : at + 8 + size]
        if kind == _COMPRESSED:
            yield _array(order, _Element(body, packed=True))
        elif kind == _ARRAY:
            yield _array(order, _Element(view[at : at + 8 + size], packed=False))
        at += 8 + size


def _array(order: str, element: _Element) -> Array:
    head = element.bytes(_HEAD)
    _, start, _, at = _part(order, head, 8)
    (flags,) = struct.unpack_from(f"{order}I", head, start)
    _, start, size, at = _part(order, head, at)
    shape = struct.unpack_from(f"{order}{size // 4}i", head, start)
    _, start, size, at = _part(order, head, at)
    name = head[start : start + size].decode("latin-1")
    numeric = flags & 0xFF in _NUMERIC and not flags & _COMPLEX and min(shape, default=0) >= 0
    kind = ""
    if numeric:
        stored, at, size, _ = _part(order, head, at)
        kind = order + _TYPES.get(stored, "V0")
        if stored not in _TYPES or size != math.prod(shape) * np.dtype(kind).itemsize:
            raise ValueError(f"{name[:60]!r} does not have the bytes that it needs")
    return Array(name, shape, numeric, kind, at, element)


def _part(order: str, head: bytes, at: int) -> tuple[int, int, int, int]:
    """Type, start and size of the part at `at`, and where the next one is."""
    kind, size = struct.unpack_from(f"{order}II", head, at)
    if kind >> 16:
        return kind & 0xFFFF, at + 4, kind >> 16, at + 8
    return kind, at + 8, size, at + 8 + -(-size // 8) * 8
