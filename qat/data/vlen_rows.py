"""Rows of variable length in an HDF5 file. Own, for HDF5 takes what they ask for before it looks, or ends the process.

A row is stored as a reference: 4 bytes of length, where its values are in the file, and 4 bytes of their number there,
in a collection: 16 bytes of header, then objects, each a header of 16 bytes with number and size, and its bytes.
"""

import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from quantal.export.base import reading
from quantal.qat.data.common import bad

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3  # the filters that are known here


def read(path: Path, dataset: Any, name: str, dtype: np.dtype) -> list[np.ndarray]:
    """The rows of a one-dimensional dataset, each an array of `dtype`. Raises BadInput where one is not whole."""
    size, references = path.stat().st_size, _references(path, dataset, name)
    lengths = np.ascontiguousarray(references[:, :4]).view("<u4")[:, 0] if len(references) else np.zeros(0, np.uint32)
    if lengths.size and int(lengths.max()) * dtype.itemsize > size:
        row = int(lengths.argmax())
        raise bad(path, name, f"rows that the file has room for, got {int(lengths[row]):,} values in row {row}")
    reading.check_memory(int(lengths.sum(dtype=np.int64)) * dtype.itemsize, path, name)
    places = references[:, 4:].tobytes()
    width, base, rows = references.shape[1] - 4, dataset.file.userblock_size, []
    known: dict[int, dict[int, bytes]] = {}
    taken = 0
    with reading.opened(path) as file:
        for n, length in enumerate(lengths.tolist()):
            place = places[n * width : (n + 1) * width]
            address, index = int.from_bytes(place[:-4], "little"), int.from_bytes(place[-4:], "little")
            if length and address not in known:
                known[address] = _heap(file, base + address, size)
                taken += sum(map(len, known[address].values()))
                if taken > size:
                    raise bad(path, name, f"collections that do not overlap, got one at byte {address}")
            raw = known[address].get(index, b"") if length else b""
            if len(raw) < length * dtype.itemsize:
                raise bad(path, name, f"row {n} to be whole")
            rows.append(np.frombuffer(raw, dtype, length))
    return rows


def _heap(file: IO[bytes], at: int, size: int) -> dict[int, bytes]:
    """The objects of the collection at that place by number; none where there is no collection."""
    if at >= size:
        return {}
    file.seek(at)
    head = file.read(16)
    count = int.from_bytes(head[8:], "little")
    if head[:4] != b"GCOL" or count > size - at:
        return {}
    raw, start, objects = head + file.read(count - 16), 16, dict[int, bytes]()
    while start + 16 <= len(raw):
        index, _, _, length = struct.unpack_from("<HHIQ", raw, start)
        if not index or length > len(raw) - start - 16:
            break
        objects[index] = raw[start + 16 : start + 16 + length]
        start += 16 + -(-length // 8) * 8
    return objects


def _references(path: Path, dataset: Any, name: str) -> np.ndarray:
    width, count = dataset.id.get_type().get_size(), dataset.shape[0]
    if not count:
        return np.zeros((0, width), np.uint8)
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        if start is None:
            raise bad(path, name, "rows that are stored apart from their description")
        with reading.opened(path) as file:
            file.seek(start)
            return _split(file.read(count * width), width)
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if not set(filters) <= {DEFLATE, SHUFFLE, CHECKSUM}:
        raise bad(path, name, "no compression, or gzip")
    rows, found = dataset.chunks[0], [np.zeros((0, width), np.uint8)]
    for i in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(i)
        if chunk.size > path.stat().st_size:
            raise bad(path, name, f"chunks that the file has room for, got one of {chunk.size:,} bytes")
        skipped, raw = dataset.id.read_direct_chunk(chunk.chunk_offset)
        for place in reversed(range(len(filters))):
            if not skipped >> place & 1:
                raw = undone(filters[place], raw, rows * width, width)
        within = max(0, min(rows, count - chunk.chunk_offset[0]))  # beyond the end, nothing is read
        found.append(_split(raw[: within * width], width))
    return np.concatenate(found)


def undone(code: int, raw: bytes, most: int, width: int) -> bytes:
    """What a filter was given, `most` bytes of it, in references of `width` bytes."""
    if code == DEFLATE:
        return zlib.decompressobj().decompress(raw, most)
    if code == SHUFFLE:
        return np.frombuffer(raw, np.uint8).reshape(width, -1).T.tobytes()
    return raw[:-4]


def _split(raw: bytes, width: int) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)[: len(raw) // width * width].reshape(-1, width)
