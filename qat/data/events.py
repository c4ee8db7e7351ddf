"""Loaders of what event cameras and touch sensors recorded: sequences (N, T, C)."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantal.export.base import reading
from quantal.export.base.errors import shown
from quantal.qat.data.common import (
    Dataset,
    Split,
    bad,
    check_room,
    fifths,
    folder_of,
    integers,
    lines,
    numbers,
    read,
    split,
)
from quantal.qat.data.encoding import LIMIT, whole
from quantal.qat.data.times import Clock

SIDE = 34  # pixels of N-MNIST's camera, either way
TAXELS = 12  # the places where Braille's fingertip feels


def _binned(path: Path, clock: Clock, pool: int, maximum: int) -> np.ndarray:
    """A recording's events as counts uint8 (steps, channels). An event: x, y, then polarity << 23 | microseconds."""
    raw = read(path)
    if not raw or len(raw) % 5:
        raise bad(path, "events", f"at least one, of 5 bytes each, got {len(raw)} bytes")
    events = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.int64)
    x, y, word = events[:, 0], events[:, 1], events[:, 2] << 16 | events[:, 3] << 8 | events[:, 4]
    if (largest := events[:, :2].max()) >= SIDE:
        raise bad(path, "coordinates", f"0..{SIDE - 1}, got {largest}")
    kept, step = clock.steps_of(word & 0x7FFFFF)
    side, places = -(-SIDE // pool), (word >> 23, y // pool, x // pool)
    polarity, down, across = (place[kept] for place in places)
    where = ((step * 2 + polarity) * side + down) * side + across
    counts = np.bincount(where, minlength=clock.steps * 2 * side**2)
    return np.minimum(counts, maximum).astype(np.uint8).reshape(clock.steps, -1)


def _labelled(folder: Path) -> dict[Path, int]:
    """The recordings N.bs2 of a folder with their classes, in the order of its labels.txt."""
    path = folder / "labels.txt"
    labels: dict[Path, int] = {}
    for number, line in enumerate(lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        row = re.fullmatch(r"\s*([0-9]{1,9})\s+([0-9])\s*", line)
        if not row:
            raise bad(path, f"line {number}", f"a sample and its class 0..9, got {shown(line)}")
        if (recording := folder / f"{row[1]}.bs2") in labels:
            raise bad(path, f"line {number}", f"each sample once, got {row[1]} again")
        if not recording.is_file():
            raise bad(path, f"line {number}", f"a sample of which there is a file, found no {recording.name}")
        labels[recording] = int(row[2])
    for recording in sorted(folder.glob("*.bs2")):
        if recording not in labels:
            raise bad(recording, "label", "one in labels.txt, found none")
    if not labels:
        raise bad(path, "labels", "at least one")
    return labels


def _in_class_folders(folder: Path) -> dict[Path, int]:
    """The recordings of the folders 0..9 with their classes."""
    labels: dict[Path, int] = {}
    for label in range(10):
        found = sorted((folder / str(label)).glob("*.bin"))
        if not found:
            raise bad(folder / str(label), "recordings", "at least one .bin file")
        labels |= dict.fromkeys(found, label)
    return labels


def nmnist(
    data: Path | None,
    *,
    steps: int = 20,
    pool: int = 2,
    maximum: int = 1,
    duration_us: int = 300_000,
) -> Dataset:
    """N-MNIST's folder with Train/0..9/*.bin and Test/0..9/*.bin, or one with N.bs2 and labels.txt: 10 classes.

    Sequences (N, steps, 2 * side * side) count the events of each polarity (0 is off, 1 is on) in squares of
    pool * pixels, side of them down and across: channel (polarity * side + y) * side + x. Counts stop at maximum, at 1
    they are spikes. The steps share duration_us evenly; what comes later is dropped. Of a folder with labels.txt, every
    fifth recording of each class, in the order of the labels, is for testing.
    """
    whole("nmnist", "steps", steps, 1, LIMIT)
    whole("nmnist", "pool", pool, 1, SIDE)
    whole("nmnist", "maximum", maximum, 1, 255)
    whole("nmnist", "duration_us", duration_us, 1, 1 << 23)  # a time has 23 bits
    folder = folder_of(data, "nmnist")
    plane = 2, -(-SIDE // pool), -(-SIDE // pool)

    def recorded(labels: dict[Path, int], clock: Clock) -> Split:
        check_room(folder, len(labels), steps, 2 * (-(-SIDE // pool)) ** 2)
        x = np.empty((len(labels), steps, 2 * (-(-SIDE // pool)) ** 2), np.uint8)
        for n, path in enumerate(labels):
            x[n] = _binned(path, clock, pool, maximum)
        return Split(x, np.array([*labels.values()], np.int64))

    if any((folder / name).is_dir() for name in ("Train", "Test")):
        train, test = (_in_class_folders(folder / name) for name in ("Train", "Test"))
        clocks = [Clock(folder / part, steps, duration_us) for part in ("Train", "Test")]
        splits = recorded(train, clocks[0]), recorded(test, clocks[1])
        notes = tuple(line for clock in clocks for line in clock.notes())
        return Dataset(*splits, classes=10, maximum=maximum, plane=plane, notes=notes)
    labels = _labelled(folder)
    chosen = fifths(np.array([*labels.values()]))
    if not chosen.any():
        raise bad(folder / "labels.txt", "labels", "five of some class at least, to test on each fifth")
    clock = Clock(folder, steps, duration_us)
    both = recorded(labels, clock)
    return replace(split(both.x, both.y, chosen, classes=10, maximum=maximum, plane=plane), notes=clock.notes())


def braille(data: Path | None, *, steps: int | None = None, baseline: str = "lowest", test_from: int = 32) -> Dataset:
    """A folder with braille.npz, or such a file: what 12 taxels felt of a letter, as sequences (N, steps, 12), 0..255.

    Its arrays: frames (N, T, 12) 0..255; length (N,), how many of the T frames were recorded; label (N,); repetition
    (N,), of which those from test_from on are for testing; letters, a name for each class. Steps are T unless given.
    From its start a recording is cropped, or goes on with its last frame: zeros would give away the length, and with it
    some letters. A touch moves a taxel by a few units, and each rests at another value, most at 255: with the baseline
    "lowest" a value is what lies above the recording's lowest of that taxel; with "none" it is as in the file.
    """
    if steps is not None:
        whole("braille", "steps", steps, 1, LIMIT)
    if baseline not in ("lowest", "none"):
        raise bad("braille", "baseline", f"lowest or none, got {shown(baseline)}")
    whole("braille", "test_from", test_from, 0, LIMIT)
    path = data / "braille.npz" if data is not None and data.is_dir() else data
    if path is None or not path.is_file():
        raise bad(path or "braille", "data", "a folder with braille.npz, or such a file")
    arrays = reading.npz(path)
    count, recorded, taxels = (shape := numbers(path, arrays, "frames", (3,)).shape)
    if taxels != TAXELS:
        raise bad(path, "frames", f"shape (recordings, steps, {TAXELS}), got {shape}")
    if "letters" not in arrays or arrays["letters"].ndim != 1 or not arrays["letters"].size:
        raise bad(path, "letters", "one dimension with a name for each class")
    classes = arrays["letters"].size
    for name in ("length", "label", "repetition"):
        if (given := numbers(path, arrays, name, (1,)).size) != count:
            raise bad(path, name, f"one for each of the {count} recordings of frames, got {given}")
    length = integers(path, arrays, "length", (1,), high=recorded).astype(np.int64)
    label = integers(path, arrays, "label", (1,), high=classes - 1).astype(np.int64)
    repetition = integers(path, arrays, "repetition", (1,)).astype(np.int64)
    if not length.all():
        raise bad(path, "length", f"1..{recorded}, got 0")
    if len(np.unique(np.stack([label, repetition]), axis=1).T) != count:
        raise bad(path, "repetition", "each once for a label, got one again")
    check_room(path, count, recorded if steps is None else steps, TAXELS)
    frames = integers(path, arrays, "frames", (3,), high=255).astype(np.uint8)
    test = repetition >= test_from
    if test.all() or not test.any():
        raise bad(path, "repetition", f"some both under test_from ({test_from}) and from it on")

    last, each = length[:, None] - 1, np.arange(count)[:, None]
    if baseline == "lowest":
        frames -= frames[each, np.minimum(np.arange(recorded), last)].min(axis=1, keepdims=True)
    x = frames[each, np.minimum(np.arange(recorded if steps is None else steps), last)]
    return split(x, label, test, classes=classes, maximum=255)
