"""What the loaders share: the arrays that they give, and reading files that may be malformed."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantal.export.base import reading
from quantal.export.base.errors import BadInput, shown
from quantal.export.base.reading import Stored
from quantal.qat.data.encoding import LIMIT


@dataclass(frozen=True)
class Split:
    """x: frames (N, C) or sequences (N, T, C), unsigned integers.

    y: labels (N,), int64; or labels of every step (N, T), int64, below 0 where a step does not count; or real targets
    (N, outputs), float64.
    """

    x: np.ndarray
    y: np.ndarray

    def take(self, chosen: np.ndarray) -> "Split":
        """The samples with these numbers, in their order."""
        return Split(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class Dataset:
    """Two splits of the same shape per sample, labels 0..classes - 1, values of x 0..maximum.

    With real targets `classes` is how many a sample has. plane: where x count events, (polarities, height, width), of
    which channel is (polarity * height + y) * width + x, or (channels, 1, 1) if they have no place; None elsewhere.
    notes: what a user should know of how the data were read, a line each.
    """

    train: Split
    test: Split
    classes: int
    maximum: int
    plane: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()


GROWTH = 16
"""How many bytes a byte of a recording, or of a table, may become while it is read."""


def bad(where: object, field: str, expected: str) -> BadInput:
    """The error to raise, of one line: `where` and `field` name what is not as expected."""
    return BadInput(" ".join(f"{where}: {field}: expected {expected}".splitlines()))


def read(path: Path) -> bytes:
    """The bytes of a file."""
    with reading.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        reading.check_memory(GROWTH * size, path, f"reading its {size:,} bytes")
        return file.read()


def lines(path: Path) -> list[str]:
    """The lines of a text file, whatever ends them."""
    return reading.decoded(read(path), path, "replace").splitlines()


def check_room(where: object, samples: int, steps: int, channels: int, each: int = 1) -> None:
    """Raises BadInput where samples of `each` bytes a value, and the counts of one of them, take too much memory."""
    shape = f"{samples:,} samples of {steps} steps and {channels} channels"
    reading.check_memory((samples * each + 8) * steps * channels, where, shape)


def folder_of(data: Path | None, task: str) -> Path:
    """`data`, which has to be a folder."""
    if data is None or not data.is_dir():
        raise bad(data or task, "data", f"a folder with the files of task {task!r}")
    return data


def split(
    x: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    classes: int,
    maximum: int,
    plane: tuple[int, int, int] | None = None,
) -> Dataset:
    """The data set of which the samples in the mask `test` (N,) are for testing."""
    return Dataset(Split(x[~test], y[~test]), Split(x[test], y[test]), classes, maximum, plane)


def fifths(y: np.ndarray) -> np.ndarray:
    """Mask (N,) of the test samples: every fifth of each class, in the order they come."""
    order = np.argsort(y, kind="stable")
    _, first, count = np.unique(y[order], return_index=True, return_counts=True)
    test = np.zeros(len(y), bool)
    test[order] = (np.arange(len(y)) - np.repeat(first, count)) % 5 == 4
    return test


def numbers(path: Path, arrays: dict[str, Stored], name: str, ndims: tuple[int, ...], what: str = "integers") -> Stored:
    """The named array of the .npz file `path`, not read yet, if it is there with numbers and so many dimensions."""
    if name not in arrays:
        raise bad(path, name, "an array, found none")
    array = arrays[name]
    if array.dtype.kind not in "biuf":
        raise bad(path, name, f"{what}, got {array.dtype}")
    if array.ndim not in ndims or not array.size:
        raise bad(path, name, f"{' or '.join(map(str, ndims))} dimensions, none empty, got shape {shown(array.shape)}")
    return array


def integers(
    path: Path, arrays: dict[str, Stored], name: str, ndims: tuple[int, ...], low: int = 0, high: int = LIMIT
) -> np.ndarray:
    """The named array of the .npz file `path`, if it holds integers low..high (whole floats and bools will do)."""
    array = numbers(path, arrays, name, ndims).read()
    if array.dtype.kind == "f":
        reading.check_memory(10 * array.size, path, f"{name}, as real numbers,")
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)  # in which a half, too, can be compared with any bound
        broken = ~(np.floor(array) == array) | np.isinf(array)
        if broken.any():
            first = np.unravel_index(int(broken.argmax()), array.shape)
            place = f"{array[first]} at {[*map(int, first)]}"
            raise bad(path, name, f"integers, got fractions, infinity or NaN: first {place}")
    if array.min() < low or array.max() > high:
        raise bad(path, name, f"integers {low}..{high}, got {array.min()}..{array.max()}")
    return array
