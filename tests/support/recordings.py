"""Recordings in the published formats, written small."""

from pathlib import Path

import h5py
import numpy as np

# --- nmnist ---


def event(x: int, y: int, polarity: int, time: int) -> bytes:
    return bytes([x, y]) + (polarity << 23 | time).to_bytes(3, "big")


def write_labels(folder: Path, labels: dict[int, int]) -> None:
    rows = "".join(f"{sample}\t{label}\r\n" for sample, label in labels.items())
    (folder / "labels.txt").write_bytes(f"#sample #class\r\n{rows}".encode())


# --- shd, ssc ---

SPOKEN = [
    ([0.0, 0.25, 0.2509765625, 0.75, 1.0, 1.3], [0, 699, 698, 3, 5, 7]),  # what is at one second and later is dropped
    ([0.5, 0.5, 0.5], [10, 10, 11]),
    ([], []),
]


def write_spoken(path: Path, labels: object = (3, 0, 1), rows: object = SPOKEN) -> None:
    """As published: times in half precision, units in 16 bits, an array of each a recording."""
    with h5py.File(path, "w") as file:
        for name, kind, column in (("times", np.float16, 0), ("units", np.uint16, 1)):
            ragged = file.create_dataset(f"spikes/{name}", (len(rows),), h5py.vlen_dtype(kind))  # type: ignore[arg-type]
            for n, row in enumerate(rows):  # type: ignore[arg-type]
                ragged[n] = np.array(row[column], kind)
        file["labels"] = np.array(labels)
        file["extra/speaker"] = np.zeros(len(rows), np.uint16)  # type: ignore[arg-type]


# --- dvs-gesture ---


def gesture_event(x: int, y: int, polarity: int, time: int, valid: int = 1) -> bytes:
    word = x << 17 | y << 2 | polarity << 1 | valid
    return word.to_bytes(4, "little") + (time & 0x7FFFFFFF).to_bytes(4, "little")


def packet(*events: bytes, kind: int = 1, overflow: int = 0, capacity: int | None = None, size: int = 8) -> bytes:
    room = len(events) if capacity is None else capacity
    words = [size, 4, overflow, room, len(events), len(events)]
    head = kind.to_bytes(2, "little") + b"\1\0" + b"".join(word.to_bytes(4, "little") for word in words)
    return head + b"".join(events) + bytes(size * max(0, room - len(events)))


HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2015\r\n#!END-HEADER\r\n"
TABLE = "class,startTime_usec,endTime_usec\n1,100,200\n11,200,1200\n"
