"""The loader of DVS-Gesture: an event camera's recordings of hands and arms."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quantal.export.base import reading
from quantal.export.base.errors import shown
from quantal.qat.data.common import Dataset, Split, bad, check_room, folder_of, lines, read
from quantal.qat.data.encoding import LIMIT, whole
from quantal.qat.data.times import Clock

SIDE = 128  # pixels of the camera, either way
CLASSES = 11
MOST_GESTURES = 1000  # in a recording: IBM's have a dozen
MOST_NUMBER = 2.0**53  # below which real numbers hold every integer
WORDS = ("size", "offset", "overflow", "capacity", "number", "valid")
PACKET = np.dtype([("type", "<i2"), ("source", "<i2"), *((word, "<i4") for word in WORDS)])
POLARITY = 1  # the packets' type for brightness changes
Events = np.ndarray
"""(events, 4), none negative: x, y, polarity, and the time in the unit of the format."""


def _events(path: Path) -> Events:
    """All polarity events of an AEDAT 3.1 file, in order.

    After a header of lines come packets: 28 bytes of PACKET, then `capacity` events of `size` bytes. An event: a word
    with x from bit 17 on, y from bit 2 on, 15 bits each, polarity in bit 1 and validity in bit 0; then the low 31 bits
    of its time, whose high bits are the packet's overflow.
    """
    raw = read(path)
    if not raw.startswith(b"#!AER-DAT3.1\r\n"):
        raise bad(path, "header", f"#!AER-DAT3.1, got {shown(raw[:14])}")
    end = b"#!END-HEADER\r\n"
    if end not in raw:
        raise bad(path, "header", "its end, #!END-HEADER")
    at, found = raw.index(end) + len(end), [np.empty((0, 4), np.int64)]
    while at < len(raw):
        if len(raw) - at < PACKET.itemsize:
            raise bad(path, f"packet at byte {at}", f"{PACKET.itemsize} bytes of header, got {len(raw) - at}")
        packet = np.frombuffer(raw, PACKET, 1, at)[0]
        at += PACKET.itemsize
        size, capacity, number = (int(packet[name]) for name in ("size", "capacity", "number"))
        if size < 8 or not 0 <= number <= capacity or len(raw) - at < size * capacity:
            said = f"{number} of {capacity} events of {size} bytes, and {len(raw) - at} bytes are left"
            raise bad(path, f"packet at byte {at - PACKET.itemsize}", f"whole events, got {said}")
        if packet["type"] == POLARITY:
            rows = np.frombuffer(raw, np.uint8, size * number, at).reshape(number, size)
            word, time = np.ascontiguousarray(rows[:, :8]).view("<u4").astype(np.int64).T
            time |= int(packet["overflow"]) << 31
            columns = word >> 17 & 0x7FFF, word >> 2 & 0x7FFF, word >> 1 & 1, time
            found.append(np.stack(columns, axis=1)[word & 1 == 1])
        at += size * capacity
    return np.concatenate(found)


def _gestures(path: Path) -> Iterator[tuple[int, Events]]:
    """Each gesture of a recording that its _labels.csv names: its class 0..10, and its events from their start on."""
    table = path.with_name(f"{path.stem}_labels.csv")
    rows, events = lines(table), _events(path)
    if not rows or rows[0].replace(" ", "") != "class,startTime_usec,endTime_usec":
        raise bad(table, "line 1", f"class,startTime_usec,endTime_usec, got {shown((rows or [''])[0])}")
    if len(rows) > MOST_GESTURES:
        raise bad(table, "lines", f"at most {MOST_GESTURES}, got {len(rows)}")
    for number, row in enumerate(rows[1:], 2):
        if not row.strip():
            continue
        values = re.fullmatch(r"\s*([0-9]{1,2})\s*,\s*([0-9]{1,18})\s*,\s*([0-9]{1,18})\s*", row, re.ASCII)
        label, start, end = map(int, values.groups()) if values else (0, 0, 0)
        if not 1 <= label <= CLASSES or start >= end:
            raise bad(table, f"line {number}", f"a class 1..{CLASSES}, its start and a later end, got {shown(row)}")
        chosen = events[(events[:, 3] >= start) & (events[:, 3] < end)]
        if not len(chosen):
            raise bad(table, f"line {number}", f"events between {start} and {end}, {path.name} has none")
        yield label - 1, chosen - np.array([0, 0, 0, start])


def _recorded(folder: Path, part: str) -> Iterator[tuple[Path, int, Events]]:
    """The gestures of the recordings that trials_to_PART.txt lists, a file name a line."""
    trials, listed = folder / f"trials_to_{part}.txt", set()
    for number, line in enumerate(lines(trials), 1):
        name = line.strip()
        if not name:
            continue
        if not re.fullmatch(r"[\w-]+\.aedat", name, re.ASCII) or not (folder / name).is_file():
            raise bad(trials, f"line {number}", f"an .aedat file that is there, got {shown(name)}")
        if name in listed:
            raise bad(trials, f"line {number}", f"each recording once, got {name} again")
        listed.add(name)
        for label, events in _gestures(folder / name):
            yield folder / name, label, events
    if not listed:
        raise bad(trials, "file", "a recording at least")


def _converted(folder: Path) -> Iterator[tuple[Path, int, Events]]:
    """The gestures of USER/CLASS.npy, arrays (events, 4) of x, y, polarity and milliseconds: how tonic ships them."""
    paths = sorted(folder.glob("*/*.npy"))
    if not paths:
        raise bad(folder, "recordings", "at least one USER/CLASS.npy")
    for path in paths:
        if not re.fullmatch(r"[0-9]|10", path.stem, re.ASCII):
            raise bad(path, "name", f"a class 0..{CLASSES - 1}")
        stored = reading.npy(path)
        if stored.dtype.kind not in "iuf" or stored.ndim != 2 or stored.shape[1] != 4:
            raise bad(path, "events", f"numbers (events, 4), got {stored.dtype} {shown(stored.shape)}")
        reading.check_memory(4 * 8 * stored.size, path, f"{stored.shape[0]:,} events")
        with np.errstate(over="ignore", invalid="ignore"):  # of what is longer than 64 bits, and of odd NaNs
            events = stored.read().astype(np.float64)
        if not len(events) or not ((events >= 0) & (events < MOST_NUMBER)).all():
            raise bad(path, "events", "at least one, all of them finite, none negative and none of 2^53 and more")
        yield path, int(path.stem), events


def _binned(path: Path, events: Events, clock: Clock, pool: int, maximum: int) -> np.ndarray:
    x, y, polarity, time = events.T
    if max(x.max(), y.max()) >= SIDE or polarity.max() > 1:
        got = f"{x.max()}, {y.max()}, {polarity.max()}"
        raise bad(path, "events", f"x and y 0..{SIDE - 1} and polarities 0 and 1, got up to {got}")
    kept, step = clock.steps_of(time)
    side, (x, y, polarity) = -(-SIDE // pool), (column[kept].astype(np.int64) for column in (x, y, polarity))
    places = ((step * 2 + polarity) * side + y // pool) * side + x // pool
    counts = np.bincount(places, minlength=clock.steps * 2 * side**2)
    return np.minimum(counts, maximum).astype(np.uint8).reshape(clock.steps, -1)


def dvs_gesture(
    data: Path | None, *, steps: int = 60, pool: int = 4, maximum: int = 1, duration_us: int = 6_000_000
) -> Dataset:
    """IBM's folder of .aedat recordings with _labels.csv, trials_to_train.txt and trials_to_test.txt: 11 classes.

    Or tonic's, with ibmGestureTrain and ibmGestureTest (Amir et al., CVPR 2017). Sequences (N, steps, 2 * side * side)
    count the events of each polarity in squares of pool * pixels, side of them down and across: channel
    (polarity * side + y) * side + x. Counts stop at maximum, at 1 they are spikes. The steps share duration_us from a
    gesture's start evenly; what comes later is dropped.
    """
    whole("dvs-gesture", "steps", steps, 1, LIMIT)
    whole("dvs-gesture", "pool", pool, 1, SIDE)
    whole("dvs-gesture", "maximum", maximum, 1, 255)
    whole("dvs-gesture", "duration_us", duration_us, 1, 1 << 31)
    folder = folder_of(data, "dvs-gesture")
    if any((folder / name).is_dir() for name in ("ibmGestureTrain", "ibmGestureTest")):
        parts = [folder / name for name in ("ibmGestureTrain", "ibmGestureTest")]
        clocks = [Clock(part, steps, duration_us, "milliseconds", us=1000) for part in parts]
        found = [_converted(part) for part in parts]
    else:
        clocks = [Clock(folder / f"trials_to_{part}.txt", steps, duration_us) for part in ("train", "test")]
        found = [_recorded(folder, part) for part in ("train", "test")]

    side = -(-SIDE // pool)

    def counted(gestures: Iterator[tuple[Path, int, Events]], clock: Clock) -> Split:
        rows: list[np.ndarray] = []
        labels: list[int] = []
        for path, label, events in gestures:
            check_room(path, len(rows) + 1, steps, 2 * side * side)
            rows.append(_binned(path, events, clock, pool, maximum))
            labels.append(label)
        if not rows:
            raise bad(folder, "labels", "a gesture at least")
        return Split(np.stack(rows), np.array(labels, np.int64))

    train, test = map(counted, found, clocks)
    notes = tuple(line for clock in clocks for line in clock.notes())
    return Dataset(train, test, CLASSES, maximum, plane=(2, side, side), notes=notes)
