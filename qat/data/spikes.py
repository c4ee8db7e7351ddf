"""Loaders of the Spiking Heidelberg Digits and the Spiking Speech Commands, as published in HDF5."""

from pathlib import Path
from typing import Any

import numpy as np

from quantal.export.base import reading
from quantal.export.base.errors import shown
from quantal.qat.data import vlen_rows
from quantal.qat.data.common import Dataset, Split, bad, check_room, folder_of
from quantal.qat.data.encoding import LIMIT, whole
from quantal.qat.data.times import Clock

_WANTED = {"spikes/times": "iuf", "spikes/units": "iu", "labels": "iu"}  # kinds of numbers
_ROW = 128  # bytes that an array takes, however little it holds
UNITS = 700  # of the cochlea model, from the highest frequency to the lowest


def _binned(times: np.ndarray, units: np.ndarray, x: np.ndarray, clock: Clock, pool: int, maximum: int) -> None:
    """Counts a recording's spikes, in seconds and units, into x (steps, channels)."""
    kept, step = clock.steps_of(times)  # exact: a half has 11 bits, its product with microseconds and steps under 53
    places = step * x.shape[1] + units[kept].astype(np.int64) // pool
    x[:] = np.minimum(np.bincount(places, minlength=x.size), maximum).reshape(x.shape)


def _recordings(path: Path, classes: int, clock: Clock, pool: int, maximum: int) -> Split:
    try:
        import h5py  # of the extra: only these tasks need it
    except ModuleNotFoundError:
        raise bad(path, "h5py", "it to be installed, for HDF5: pip install 'quantal[hdf5]'") from None
    with reading.opened(path):
        pass  # it is a file that can be read; HDF5 opens it by its name
    with reading.damaged(path, "an intact HDF5 file"), h5py.File(path) as file:
        found = [_dataset(path, file, name) for name in ("spikes/times", "spikes/units", "labels")]
        count = found[-1].shape[0]
        rows = [dataset.shape[0] for dataset in found[:-1]]
        if rows != [count, count]:
            raise bad(path, "spikes", f"one row for each of the {count} labels, got {rows[0]} and {rows[1]}")
        check_room(path, count, clock.steps, -(-UNITS // pool))
        times, units = (_rows(path, *pair) for pair in zip(found[:-1], ("spikes/times", "spikes/units"), strict=True))
        labels: np.ndarray = found[-1][:]
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        got = f"{labels.min()}..{labels.max()}" if len(labels) else "none"
        raise bad(path, "labels", f"integers 0..{classes - 1}, got {got}")
    x = np.zeros((len(labels), clock.steps, -(-UNITS // pool)), np.uint8)
    for n, (when, where) in enumerate(zip(times, units, strict=True)):
        row = f"row {n}"
        if len(when) != len(where):
            raise bad(path, "spikes/units", f"{len(when)} of {row}, as it has times, got {len(where)}")
        if not (np.isfinite(when) & (when >= 0)).all():
            raise bad(path, "spikes/times", f"seconds from 0 on in {row}, got {when[~(when >= 0) | np.isinf(when)][0]}")
        if len(where) and (where.min() < 0 or where.max() >= UNITS):
            raise bad(path, "spikes/units", f"0..{UNITS - 1} in {row}, got {where.min()}..{where.max()}")
        _binned(when, where, x[n], clock, pool, maximum)
    return Split(x, labels.astype(np.int64))


def _dataset(path: Path, file: Any, name: str) -> Any:
    """A dataset of one dimension in this very file, not read yet: of integers, or of one array of numbers a row."""
    import h5py

    found = file
    for part in name.split("/"):
        inside = isinstance(found, h5py.Group) and isinstance(found.get(part, getlink=True), h5py.HardLink)
        found = found.get(part) if inside else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise bad(path, name, "a dataset, found none")
    if found.shape is None or len(found.shape) != 1:
        raise bad(path, name, f"one dimension, got {'none' if found.shape is None else f'shape {found.shape}'}")
    row, wanted = h5py.check_vlen_dtype(found.dtype), _WANTED[name]
    if name == "labels" and found.dtype.kind not in wanted:
        raise bad(path, name, f"integers, got {found.dtype}")
    if name != "labels" and (not isinstance(row, np.dtype) or row.kind not in wanted):
        raise bad(path, name, "an array of numbers a row")
    stored, most = found.id.get_storage_size(), reading.DEFLATE if found.chunks else 1
    if found.shape[0] * found.id.get_type().get_size() > most * stored:
        raise bad(path, name, f"{found.shape[0]} rows, the {stored} bytes stored cannot hold them")
    if found.chunks and found.chunks[0] * found.id.get_type().get_size() > most * stored:
        raise bad(path, name, f"chunks of {found.chunks[0]} rows, the {stored} bytes stored cannot hold one")
    return found


def _rows(path: Path, dataset: Any, name: str) -> list[np.ndarray]:
    import h5py

    reading.check_memory(_ROW * dataset.shape[0], path, f"{dataset.shape[0]:,} rows")
    return vlen_rows.read(path, dataset, name, h5py.check_vlen_dtype(dataset.dtype))


def _spoken(
    task: str, data: Path | None, files: tuple[str, str], classes: int, steps: int, pool: int, maximum: int, us: int
) -> Dataset:
    whole(task, "steps", steps, 1, LIMIT)
    whole(task, "pool", pool, 1, UNITS)
    whole(task, "maximum", maximum, 1, 255)
    whole(task, "duration_us", us, 1, 1 << 23)
    folder = folder_of(data, task)
    clocks = [Clock(folder / name, steps, us, "seconds", us=1_000_000) for name in files]
    train, test = (_recordings(clock.where, classes, clock, pool, maximum) for clock in clocks)
    notes = tuple(line for clock in clocks for line in clock.notes())
    return Dataset(train, test, classes, maximum, plane=(1, 1, train.x.shape[2]), notes=notes)


def shd(
    data: Path | None, *, steps: int = 100, pool: int = 1, maximum: int = 1, duration_us: int = 1_000_000
) -> Dataset:
    """A folder with shd_train.h5 and shd_test.h5 (Cramer et al., IEEE TNNLS 33, 2020): spoken digits, 20 classes.

    Their datasets: spikes/times, an array of seconds a recording (half precision); spikes/units, the unit 0..699 of
    each; labels. Sequences (N, steps, ceil(700 / pool)) count the spikes of `pool` neighbouring units; counts stop at
    maximum, at 1 they are spikes. The steps share duration_us evenly; what comes later is dropped. Needs h5py.
    """
    return _spoken("shd", data, ("shd_train.h5", "shd_test.h5"), 20, steps, pool, maximum, duration_us)


def ssc(
    data: Path | None,
    *,
    steps: int = 100,
    pool: int = 1,
    maximum: int = 1,
    duration_us: int = 1_000_000,
    test_on: str = "test",
) -> Dataset:
    """A folder with ssc_train.h5, ssc_valid.h5 and ssc_test.h5: spoken commands, 35 classes, else as `shd`.

    Tested on ssc_test.h5, or with test_on = "valid" on ssc_valid.h5. A byte a step and channel: 5 GB of training data
    at 100 steps and without pooling.
    """
    if test_on not in ("test", "valid"):
        raise bad("ssc", "test_on", f"test or valid, got {shown(test_on)}")
    return _spoken("ssc", data, ("ssc_train.h5", f"ssc_{test_on}.h5"), 35, steps, pool, maximum, duration_us)
