"""How long the rows of variable length in an HDF5 file are said to be: HDF5 takes what they ask for before it looks.

A row is stored as a reference: 4 bytes of length, where its values are in the file, and 4 bytes of their place there.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from export import reading
from qat.data_common import bad

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3  # the filters that are known here


def check(path: Path, dataset: Any, name: str, itemsize: int) -> None:
    """Raises BadInput where a row of the one-dimensional dataset has more bytes than the file, or all take too much."""
    size, lengths = path.stat().st_size, _lengths(path, dataset, name)
    if lengths.size and int(lengths.max()) * itemsize > size:
        row = int(lengths.argmax())
        raise bad(path, name, f"rows that the file has room for, got {int(lengths[row]):,} values in row {row}")
    reading.check_memory(int(lengths.sum(dtype=np.int64)) * itemsize, path, name)


def _lengths(path: Path, dataset: Any, name: str) -> np.ndarray:
    width, count = dataset.id.get_type().get_size(), dataset.shape[0]
    if not count:
        return np.zeros(0, np.uint32)
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        if start is None:
            raise bad(path, name, "rows that are stored apart from their description")
        with reading.opened(path) as file:
            file.seek(start)
            return _first_words(file.read(count * width), width)
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if not set(filters) <= {DEFLATE, SHUFFLE, CHECKSUM}:
        raise bad(path, name, "no compression, or gzip")
    rows, lengths = dataset.chunks[0], [np.zeros(0, np.uint32)]
    for i in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(i)
        if chunk.size > path.stat().st_size:
            raise bad(path, name, f"chunks that the file has room for, got one of {chunk.size:,} bytes")
        skipped, raw = dataset.id.read_direct_chunk(chunk.chunk_offset)
        for place in reversed(range(len(filters))):
            if not skipped >> place & 1:
                raw = undone(filters[place], raw, rows * width, width)
        within = max(0, min(rows, count - chunk.chunk_offset[0]))  # beyond the end, nothing is read
        lengths.append(_first_words(raw[: within * width], width))
    return np.concatenate(lengths)


def undone(code: int, raw: bytes, most: int, width: int) -> bytes:
    """What a filter was given, `most` bytes of it, in references of `width` bytes."""
    if code == DEFLATE:
        return zlib.decompressobj().decompress(raw, most)
    if code == SHUFFLE:
        return np.frombuffer(raw, np.uint8).reshape(width, -1).T.tobytes()
    return raw[:-4]


def _first_words(raw: bytes, width: int) -> np.ndarray:
    """The first 4 bytes of each `width`."""
    whole = np.frombuffer(raw, np.uint8)[: len(raw) // width * width].reshape(-1, width)
    return np.ascontiguousarray(whole[:, :4]).view("<u4")[:, 0]
