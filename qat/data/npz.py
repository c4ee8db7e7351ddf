"""The loader of your own arrays."""

from pathlib import Path

import numpy as np

from quantal.export.base import reading
from quantal.export.base.reading import Stored
from quantal.qat.data.common import Dataset, Split, bad, fifths, integers, numbers

PARTS = ("_train", "_test", "")


def npz(data: Path | None) -> Dataset:
    """An .npz file: x_train, y_train, x_test, y_test, or x and y with every fifth sample of each class for testing.

    x (N, C) or (N, T, C) and y (N,) hold integers 0..65535 (whole floats and bools will do); `classes`, a scalar,
    may say how many there are, else the labels do. maximum is the largest x, or 1; sequences of 0 and 1 are spikes.
    y (N, T) are labels of every step, -1 where one does not count; `target` (N,) or (N, outputs), in place of y, are
    real. Of either, every fifth sample is for testing where the file does not say.
    """
    if data is None or not data.is_file():
        raise bad(data or "npz", "data", "an .npz file")
    known = ("classes", *(f"{name}{part}" for name in ("x", "y", "target") for part in PARTS))
    arrays = {name: array for name, array in reading.npz(data).items() if name in known}
    real = any(name.startswith("target") for name in arrays)

    def pair(part: str) -> Split:
        name = f"{'target' if real else 'y'}{part}"
        seen = numbers(data, arrays, f"x{part}", (2, 3))
        said = numbers(data, arrays, name, (1, 2), "real numbers" if real else "integers")
        if seen.shape[0] != said.shape[0]:
            wanted = f"a label for each of the {seen.shape[0]} samples of x{part}"
            raise bad(data, f"y{part}", f"{wanted}, got {said.shape[0]}")
        y = _targets(data, said, name) if real else _labels(data, arrays, name, seen)
        x = integers(data, arrays, f"x{part}", (2, 3))
        return Split(x.astype(np.uint8 if x.max() < 256 else np.uint16), y)

    if any(name.endswith(("_train", "_test")) for name in arrays):
        train, test = pair("_train"), pair("_test")
        if train.x.shape[1:] != test.x.shape[1:]:
            raise bad(data, "x_test", f"samples like x_train's {train.x.shape[1:]}, got {test.x.shape[1:]}")
        if train.y.shape[1:] != test.y.shape[1:]:
            name = "target_test" if real else "y_test"
            raise bad(data, name, f"as many a sample as in training, got {test.y.shape}")
    else:
        both = pair("")
        chosen = fifths(both.y if both.y.ndim == 1 else np.zeros(len(both.y)))
        if not chosen.any():
            raise bad(data, "y", "five samples of some class at least, to test on each fifth")
        train, test = both.take(np.flatnonzero(~chosen)), both.take(np.flatnonzero(chosen))
    maximum = max(1, int(train.x.max()), int(test.x.max()))
    classes = train.y.shape[1] if real else max(int(train.y.max()), int(test.y.max())) + 1
    if "classes" in arrays and not real:
        given = int(integers(data, arrays, "classes", (0,)))
        if given < classes:
            raise bad(data, "classes", f"more than the largest label, {classes - 1}, got {given}")
        classes = given
    spikes = maximum == 1 and train.x.ndim == 3
    return Dataset(train, test, classes, maximum, plane=(train.x.shape[2], 1, 1) if spikes else None)


def _labels(path: Path, arrays: dict[str, Stored], name: str, x: Stored) -> np.ndarray:
    """Labels (N,), or of the steps of sequences x (N, T)."""
    y = arrays[name]
    if y.ndim == 1:
        return integers(path, arrays, name, (1,)).astype(np.int64)
    if y.shape[1:] != x.shape[1:2] or x.ndim != 3:
        raise bad(path, name, f"a label for each sample, or for each step of sequences, got {y.shape} for {x.shape}")
    labels = integers(path, arrays, name, (2,), low=-1).astype(np.int64)
    if (labels == -1).all():
        raise bad(path, name, "some step with a label")
    return labels


def _targets(path: Path, stored: Stored, name: str) -> np.ndarray:
    """Real targets (N, outputs)."""
    with np.errstate(over="ignore"):
        y = stored.read().astype(np.float64)
    if not np.isfinite(y).all():
        raise bad(path, name, "finite numbers")
    return y.reshape(len(y), -1)
