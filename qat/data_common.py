"""What the loaders share: the arrays that they give, and reading files that may be malformed."""

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.errors import BadInput
from qat.encoding import LIMIT


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


def bad(where: object, field: str, expected: str) -> BadInput:
    """The error to raise, of one line: `where` and `field` name what is not as expected."""
    return BadInput(" ".join(f"{where}: {field}: expected {expected}".splitlines()))


def read(path: Path) -> bytes:
    """The bytes of a file, uncompressed if it is a .gz."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise bad(path, "gzip stream", f"a whole and intact one ({error})") from error
    except OSError as error:
        raise bad(path, "file", f"a readable one ({error.strerror})") from error


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
    test = np.zeros(len(y), bool)
    for label in np.unique(y):
        test[np.flatnonzero(y == label)[4::5]] = True
    return test


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an .npz file has."""
    if not zipfile.is_zipfile(path):
        raise bad(path, "file", "an .npz, which is a zip archive")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in names if name in file.files}
    except Exception as error:  # numpy, zipfile and zlib each have their own
        raise bad(path, "file", f"an intact .npz of plain arrays ({error})") from error


def integers(
    path: Path, arrays: dict[str, np.ndarray], name: str, ndims: tuple[int, ...], high: int = LIMIT
) -> np.ndarray:
    """The named array of the .npz file `path`, if it holds integers 0..high (whole floats and bools will do)."""
    if name not in arrays:
        raise bad(path, name, "an array, found none")
    array = arrays[name]
    if array.dtype.kind not in "biuf":
        raise bad(path, name, f"integers, got {array.dtype}")
    if array.ndim not in ndims or not array.size:
        raise bad(path, name, f"{' or '.join(map(str, ndims))} dimensions, none empty, got shape {array.shape}")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise bad(path, name, "integers, got fractions, infinity or NaN")
    if array.min() < 0 or array.max() > high:
        raise bad(path, name, f"integers 0..{high}, got {array.min()}..{array.max()}")
    return array
