"""Datasets as integers: frames (N, C) or sequences (N, T, C) of values 0..maximum, with labels or targets.

No randomness and no cache: a folder or file always gives the same arrays. Whatever is malformed raises BadInput.
"""

import gzip
import inspect
import io
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from quantal.export.base import reading
from quantal.export.base.errors import BadInput, shown
from quantal.qat.data.common import Dataset, Split, bad, check_room, fifths, folder_of, read, split
from quantal.qat.data.ecg import qtdb
from quantal.qat.data.encoding import LIMIT, whole
from quantal.qat.data.events import braille, nmnist
from quantal.qat.data.gestures import dvs_gesture
from quantal.qat.data.npz import npz
from quantal.qat.data.series import timeseries
from quantal.qat.data.spikes import shd, ssc

__all__ = ["LOADERS", "Dataset", "Split", "load"]


def _digits(data: Path | None) -> Dataset:
    """scikit-learn's 8 x 8 digits: 1,797 frames of 64 values 0..16. `data` is not looked at."""
    from sklearn.datasets import load_digits  # takes a second to import, and only this task needs it

    x, y = load_digits(return_X_y=True)
    return split(x.astype(np.uint8), y.astype(np.int64), fifths(y), classes=10, maximum=16)


@contextmanager
def _whole_gzip(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise bad(path, "gzip stream", f"a whole and intact one ({error})") from error


def _idx(folder: Path, name: str, ndim: int) -> tuple[Path, np.ndarray]:
    """The file read and its bytes as an ndim-dimensional array: big-endian magic, then sizes, then the values."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise bad(folder / name, "file", "it or its .gz")
    magic, start = (0x0800 | ndim).to_bytes(4, "big"), 4 + 4 * ndim
    with reading.opened(path) as file, _whole_gzip(path):
        size, packed = os.fstat(file.fileno()).st_size, path.suffix == ".gz"
        stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
        head = stream.read(start)
        if head[:4] != magic:
            raise bad(path, "magic", f"0x{magic.hex()}, got 0x{head[:4].hex()}")
        if len(head) < start:
            raise bad(path, "header", f"{start} bytes, got {len(head)}")
        shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, start, 4)]
        if 0 in shape:
            raise bad(path, "dimensions", f"all above zero, got {shape}")
        count = math.prod(shape)
        if count > size * reading.DEFLATE if packed else count != size - start:
            got = f"{size} compressed" if packed else size - start
            raise bad(path, "payload", f"{count} bytes for dimensions {shape}, got {got}")
        reading.check_memory(2 * count, path, f"{shape[0]:,} samples")
        payload = stream.read(count + 1)  # one more, so that too many are noticed, and a stream's end is checked
    if len(payload) != count:
        got = len(payload) if len(payload) < count else f"more than {count}"
        raise bad(path, "payload", f"{count} bytes for dimensions {shape}, got {got}")
    return path, np.frombuffer(payload, np.uint8).reshape(shape).copy()


def _mnist(data: Path | None) -> Dataset:
    """A folder with the four idx files of MNIST, plain or .gz: frames of 784 values 0..255, 10 classes."""
    folder, splits = folder_of(data, "mnist"), []
    for name in ("train", "t10k"):
        _, x = _idx(folder, f"{name}-images-idx3-ubyte", 3)
        path, y = _idx(folder, f"{name}-labels-idx1-ubyte", 1)
        if len(x) != len(y):
            raise bad(path, "labels", f"one for each of the {len(x)} images, got {len(y)}")
        if y.max() > 9:
            raise bad(path, "labels", f"0..9, got {y.max()}")
        splits.append(Split(x.reshape(len(x), -1), y.astype(np.int64)))
    train, test = splits
    if train.x.shape[1] != test.x.shape[1]:
        raise bad(folder, "images", f"one size, got {train.x.shape[1]} pixels in train and {test.x.shape[1]} in t10k")
    return Dataset(train, test, classes=10, maximum=255)


class _Whole(io.BytesIO):
    """Bytes that never come short: scipy would take a cut recording for a complete one."""

    def read(self, size: int | None = -1, /) -> bytes:
        got = super().read(size)
        if size is not None and len(got) < size:
            raise EOFError(f"cut short: {size} bytes due, {len(got)} left")
        return got


def _samples(path: Path, rate: int) -> np.ndarray:
    """A recording as float64 (samples,) around 0."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about harmless extra chunks
            found, pcm = wavfile.read(_Whole(read(path)))
    except BadInput:
        raise
    except Exception as error:  # scipy lets errors of struct and numpy through, and an unbound name: no data chunk
        why = "no data chunk" if isinstance(error, UnboundLocalError) else error
        raise bad(path, "wav", f"a whole and intact PCM recording ({why})") from error
    if found != rate:
        raise bad(path, "sample rate", f"{rate} Hz, got {found}")
    if pcm.ndim != 1:
        raise bad(path, "channels", f"1, got {pcm.shape[1]}")
    if (pcm.dtype.kind, pcm.dtype.itemsize) not in (("i", 2), ("u", 1)):
        raise bad(path, "samples", f"16-bit or 8-bit PCM, got {pcm.dtype}")
    if not pcm.size:
        raise bad(path, "samples", "at least one")
    samples: np.ndarray = pcm.astype(np.float64)
    return samples - 128 if pcm.dtype.kind == "u" else samples


def _mel_filters(channels: int, frame: int, rate: int) -> np.ndarray:
    """Triangles (frame // 2 + 1, channels) over the bins of an rfft, equally wide in mel from 100 Hz to rate / 2."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (100, rate / 2))
    edges = 700 * (10 ** (np.linspace(low, high, channels + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(frame, 1 / rate)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None)


_AT_ONCE = 1 << 24  # samples whose spectra are taken at once: more than an hour's


def _features(
    samples: np.ndarray, filters: np.ndarray, window: np.ndarray, hop: int, steps: int, floor_db: float
) -> np.ndarray:
    """Filter energies uint8 (steps, channels): 255 is the recording's peak, 0 is floor_db below it or silence."""
    samples = np.pad(samples, (0, max(0, len(window) - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::hop]
    many = max(1, _AT_ONCE // len(window))
    parts = (frames[start : start + many] * window for start in range(0, len(frames), many))
    energy = np.concatenate([np.abs(np.fft.rfft(part)) ** 2 @ filters for part in parts])
    features = np.zeros((steps, filters.shape[1]), np.uint8)
    if (peak := energy.max()) > 1e-6:  # less is the rounding error of a constant: silence
        decibel = 10 * np.log10(np.maximum(energy[:steps] / peak, 10 ** (-floor_db / 10)))
        features[: len(decibel)] = np.floor((decibel / floor_db + 1) * 255 + 0.5)
    return features


def _speech(
    data: Path | None,
    *,
    steps: int = 64,
    channels: int = 40,
    rate: int = 8000,
    frame_ms: float = 32.0,
    hop_ms: float = 12.5,
    floor_db: float = 60.0,
    test_below: int = 10,
) -> Dataset:
    """A folder (or its `recordings`) of mono wav files label_..._index.wav: sequences (N, steps, channels), 0..255.

    Log mel energies, a step every hop_ms, in floor_db / 255 dB units up from floor_db below the recording's own
    peak; from its start, cropped or padded with 0. Recordings with an index under test_below are the test split.
    """
    whole("speech", "steps", steps, 1, LIMIT)
    whole("speech", "channels", channels, 1, LIMIT)
    whole("speech", "rate", rate, 1000, 1_000_000)
    whole("speech", "test_below", test_below, 0, LIMIT)
    for field, value in (("frame_ms", frame_ms), ("hop_ms", hop_ms), ("floor_db", floor_db)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1000:
            raise bad("speech", field, f"a number 1..1000, got {shown(value)}")
    frame, hop = (math.floor(rate * ms / 1000 + 0.5) for ms in (frame_ms, hop_ms))
    reading.check_memory(6 * 8 * (frame // 2 + 1) * channels, "speech", f"filters of {channels} channels")
    filters = _mel_filters(channels, frame, rate)
    if not filters.any(axis=0).all():
        raise bad("speech", "channels", f"so few that each spans a bin of a {frame_ms} ms frame, got {channels}")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)  # Hann, periodic

    folder = folder_of(data, "speech")
    paths: list[Path] = []
    for place in (folder, folder / "recordings"):
        paths = paths or sorted(p for p in place.glob("*") if p.suffix.lower() == ".wav")
    if not paths:
        raise bad(folder, "recordings", "at least one .wav file")
    check_room(folder, len(paths), steps, channels)
    x = np.empty((len(paths), steps, channels), np.uint8)
    y, test = np.empty(len(paths), np.int64), np.empty(len(paths), bool)
    for n, path in enumerate(paths):
        name = re.fullmatch(r"([0-9]{1,4})_(?:.*[^0-9])?([0-9]+)", path.stem, re.DOTALL)
        if not name:
            raise bad(path, "name", "label_..._index.wav, both integers")
        y[n], test[n] = int(name[1]), int(name[2]) < test_below
        x[n] = _features(_samples(path, rate), filters, window, hop, steps, floor_db)
    if test.all() or not test.any():
        raise bad(folder, "recordings", f"indices both under test_below ({test_below}) and from it on")
    return split(x, y, test, classes=int(y.max()) + 1, maximum=255)


LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "nmnist": nmnist,
    "speech": _speech,
    "braille": braille,
    "shd": shd,
    "ssc": ssc,
    "dvs-gesture": dvs_gesture,
    "qtdb": qtdb,
    "timeseries": timeseries,
    "npz": npz,
}


def takes_steps(task: str) -> bool:
    """Whether its loader is to be told how many steps the encoder has."""
    return "steps" in inspect.signature(LOADERS[task]).parameters


def load(task: str, data: Path | None, /, **options: Any) -> Dataset:
    """The dataset of a task. `data` is a file for 'npz', not looked at for 'digits', and a folder for the others.

    The options of a task are the keyword arguments of its loader.
    Raises BadInput for an unknown task or option and for whatever is missing or malformed in data.
    """
    if task not in LOADERS:
        raise bad("data", "task", f"one of {', '.join(LOADERS)}, got {shown(task)}")
    loader = LOADERS[task]
    known = [name for name in inspect.signature(loader).parameters if name != "data"]
    for name in options:
        if name not in known:
            raise bad(task, "options", f"{'one of ' + ', '.join(known) if known else 'none'}, got {shown(name)}")
    return loader(data, **options)
