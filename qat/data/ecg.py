"""The loader of an electrocardiogram as spikes, with a label for every step."""

from pathlib import Path

import numpy as np

from quantal.export.base import reading
from quantal.export.base.errors import shown
from quantal.qat.data import mat_file
from quantal.qat.data.common import Dataset, Split, bad, fifths, read, split
from quantal.qat.data.encoding import whole

CHANNELS, CLASSES = 4, 6
_LAST = {"x": CHANNELS, "y": CLASSES}  # arrays, and their last dimension


def _recordings(path: Path, steps: int) -> Split:
    """A file's first `steps` steps: x (samples, steps, 4) and y (samples, steps)."""
    raw = read(path)
    with reading.damaged(path, "an intact .mat file"):
        listed = [array for array in mat_file.arrays(raw) if array.name in _LAST]
        for name, last in _LAST.items():
            found = [array for array in listed if array.name == name]
            if len(found) != 1:
                raise bad(path, name, f"an array, found {len(found) or 'none'}")
            shape, numeric = found[0].shape, found[0].numeric
            if not numeric or len(shape) != 3 or shape[2] != last or 0 in shape:
                what = "numbers" if numeric else "none"
                raise bad(path, name, f"numbers (samples, steps, {last}), got {what} {shown(shape)}")
            reading.check_memory(4 * found[0].nbytes, path, f"{name}, {shown(shape)} numbers,")
        x, y = (next(array for array in listed if array.name == name).read() for name in _LAST)
    if x.shape[:2] != y.shape[:2]:
        raise bad(path, "y", f"a label for each of the {x.shape[:2]} samples and steps of x, got {y.shape[:2]}")
    if x.shape[1] < steps:
        raise bad(path, "x", f"{steps} steps at least, as the encoder has, got {x.shape[1]}")
    x, y = x[:, :steps], y[:, :steps]
    if not np.isin(x, (-1, 0, 1)).all():
        raise bad(path, "x", "spikes, 0 and 1, or -1 where a recording ends")
    if not np.isin(y, (0, 1)).all() or y.sum(axis=2).max() > 1:
        raise bad(path, "y", "a 1 in one class at most for each step, else 0")
    labels = np.where(y.any(axis=2), y.argmax(axis=2), -1).astype(np.int64)
    if not (labels >= 0).any():
        raise bad(path, "y", "some step with a label")
    return Split((x > 0).astype(np.uint8), labels)


def qtdb(data: Path | None, *, steps: int = 1301) -> Dataset:
    """A folder with QTDB_train.mat, or such a file: recordings of the QT database as spikes (N, steps, 4), 6 classes.

    The arrays of the file, as the repository of Yin, Corradi and Bohté (Nature Machine Intelligence 3, 2021) has it: x
    (N, 1301, 4), spikes of a level-crossing code, up and down in each of two leads, with a -1 that ends a recording and
    is no spike; y (N, 1301, 6), one-hot, the waves P, PQ, QR, RS, ST, TP; t and max_i, step numbers, are not needed. A
    step of no class is labelled -1 and does not count (where the labels are taken by argmax, it passes for a P). Tested
    on QTDB_test.mat, which has the same arrays, or where there is none on every fifth recording.
    """
    whole("qtdb", "steps", steps, 1, 65_535)
    path = data / "QTDB_train.mat" if data is not None and data.is_dir() else data
    if path is None or not path.is_file():
        raise bad(path or "qtdb", "data", "a folder with QTDB_train.mat, or such a file")
    train, other = _recordings(path, steps), path.with_name("QTDB_test.mat")
    if other.is_file() and other != path:
        return Dataset(train, _recordings(other, steps), CLASSES, maximum=1, plane=(CHANNELS, 1, 1))
    chosen = fifths(np.zeros(len(train.x)))
    if not chosen.any():
        raise bad(path, "x", "five recordings at least, to test on each fifth")
    return split(train.x, train.y, chosen, CLASSES, maximum=1, plane=(CHANNELS, 1, 1))
