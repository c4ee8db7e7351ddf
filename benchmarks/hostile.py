"""Hostile files: every reader of quantal with small valid files of its kind, and what may be done to their bytes.

Which change is made follows from the reader's name and a number alone, so that any input can be made again.
"""

import gzip
import io
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from mutations import BYTES, TEXT, Change, a_field, a_header, a_stream, a_tree, a_weight, an_archive, an_array, npy
from rich.progress import Progress
from scipy.io import savemat, wavfile

from quantal.export import network_file
from quantal.export.build import Build, write_build
from quantal.export.verify import vectors
from quantal.qat.config import config_file
from quantal.qat.data.registry import load
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.trace import hard_trace
from quantal.qat.training.epochs import train_until
from quantal.qat.training.run import Run, load_data
from quantal.qat.training.start import new_run


@dataclass(frozen=True)
class Reader:
    """What reads `file`: `seeds` are valid contents of it, `changes` what is done to them, beside bytes."""

    name: str
    file: Path
    seeds: tuple[bytes, ...]
    changes: tuple[Change, ...]
    read: Callable[[], object]

    def input(self, number: int) -> bytes:
        """The hostile content of that number; the first ones are the seeds as they are."""
        if number < len(self.seeds):
            return self.seeds[number]
        rng = random.Random(f"{self.name} {number}")
        content = rng.choice(self.seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            if len(content) < 1 << 17:
                content = rng.choice((*BYTES, *self.changes * 3))(rng, content)
        return content


_DENSE = """[task]
name = "npz"
[encoder]
steps = 5
[[layer]]
name = "a"
size = 3
recurrent = true
neuron.adaptation = 0.5
[[layer]]
name = "b"
size = 2
inputs = ["a", "input"]
delays = [0, 2]
states = "squat"
[[layer]]
name = "o"
size = 3
neuron = "li"
[training]
epochs = 0
"""
_PLANES = """[task]
name = "npz"
[encoder]
kind = "rate"
steps = 5
[[layer]]
name = "a"
connection = "conv"
channels = 2
shape = [1, 6]
kernel = [3]
padding = [1]
neuron.synapse = "exponential"
[[layer]]
name = "p"
connection = "pool"
kernel = [2]
[[layer]]
name = "o"
size = 3
neuron = "count"
[training]
epochs = 0
batch = 8
[augmentation]
drop = 0.1
"""


def _data(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    np.savez(folder / "base.npz", x=(rng.random((30, 5, 6)) < 0.5).astype(np.uint8), y=y)
    return folder / "base.npz"


def _archived(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{name: np.asarray(array) for name, array in arrays.items()})
    return stream.getvalue()


def _made(folder: Path, text: str, name: str) -> tuple[Run, Build]:
    """A run and a build of that configuration, trained on nothing."""
    config = config_file.loads(text, name)
    data = load_data(config, _data(folder))
    run = new_run(folder / f"{name}-run", config, data)
    lowered = lower(run.network, name)
    x = run.samples().x
    write_build(folder / f"{name}-build", lowered, x, hard_trace(run.network, x, exact_dtype(lowered)))
    return run, Build.open(folder / f"{name}-build")


def _build(built: Build) -> Build:
    """The build, opened again; its network, which another reader is for, is there already."""
    with mock.patch("quantal.export.build.network_file.load", return_value=built.proven):
        return Build.open(built.path)


def _own(folder: Path) -> list[Reader]:
    """What reads quantal's own files."""
    (dense, built), (planes, other) = (
        _made(folder, text, name) for text, name in ((_DENSE, "dense"), (_PLANES, "planes"))
    )
    network = folder / "network.json"
    networks = tuple((one.path / "network.json").read_bytes() for one in (built, other))
    toml, checkpoint = folder / "net.toml", dense.path / "checkpoint.safetensors"
    configured = (_DENSE.encode(), _PLANES.encode(), (planes.path / "network.toml").read_bytes())
    manifest, golden, samples = built.path / "MANIFEST.json", folder / "vectors.npz", dense.path / "samples.npz"
    lines, metrics = b"".join(b'{"epoch": %d, "loss": 1.5}\n' % n for n in range(4)), dense.path / "metrics.jsonl"
    data, silent = load_data(dense.config, folder / "base.npz"), Progress(disable=True)
    return [
        Reader("network.toml", toml, configured, (*TEXT, a_field, a_field), lambda: config_file.load(toml)),
        Reader("network.json", network, networks, (*TEXT, a_tree, a_tree), lambda: network_file.load(network)),
        Reader("MANIFEST.json", manifest, (manifest.read_bytes(),), (*TEXT, a_tree), lambda: _build(built)),
        Reader(
            "vectors.npz", golden, ((built.path / "vectors.npz").read_bytes(),), (an_archive,),
            lambda: vectors.load(golden, built.network),
        ),
        Reader("samples.npz", samples, (samples.read_bytes(),), (an_archive,), dense.samples),
        Reader(
            "checkpoint.safetensors", checkpoint, (checkpoint.read_bytes(),), (a_header, a_weight),
            lambda: Run.open(dense.path),
        ),
        Reader("metrics.jsonl", metrics, (lines,), TEXT, lambda: train_until(dense, data, 0, silent)),
    ]  # fmt: skip


def _tables(folder: Path) -> list[Reader]:
    """What reads arrays, images, sounds and tables."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 9, (20, 4, 3)), np.arange(20) % 2
    own = (
        _archived(x=x, y=y), _archived(x=x[:, 0], target=y / 2), _archived(x=x, y=np.stack([y] * 4, 1)),
        _archived(x_train=x, y_train=y, x_test=x, y_test=y, classes=3),
    )  # fmt: skip
    npz, braille = folder / "own.npz", folder / "braille.npz"
    letters = np.array(["A", "B"])
    touched = _archived(
        frames=rng.integers(0, 255, (6, 9, 12)), length=[9, 3, 1, 9, 9, 9], label=[0, 1] * 3,
        repetition=[30, 31, 32, 33, 34, 35], letters=letters,
    )  # fmt: skip
    mnist, packed, speech, series, ecg = (folder / name for name in ("mnist", "mnist-gz", "speech", "Two", "ecg"))
    for one in (mnist, packed, speech, series, ecg):
        one.mkdir()
    for name, count in (("train", 20), ("t10k", 10)):
        images = b"".join(n.to_bytes(4, "big") for n in (0x0803, count, 2, 2)) + bytes(count * 4)
        labels = b"".join(n.to_bytes(4, "big") for n in (0x0801, count)) + bytes(n % 10 for n in range(count))
        for kind, raw in (("images-idx3", images), ("labels-idx1", labels)):
            (mnist / f"{name}-{kind}-ubyte").write_bytes(raw)
            (packed / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw, mtime=0))
    images, zipped = mnist / "train-images-idx3-ubyte", packed / "train-images-idx3-ubyte.gz"
    sounds = []
    for kind in (np.int16, np.uint8, np.float32):
        stream = io.BytesIO()
        wavfile.write(stream, 8000, (rng.random(400) * 100).astype(kind))
        sounds.append(stream.getvalue())
    for name in ("0_x_0.wav", "1_x_11.wav"):
        (speech / name).write_bytes(sounds[0])
    table = b"# a\n@problemName Two\n@timeStamps false\n@classLabel true a b\n@data\n1,2,3:4,5,6:a\n1,2:4,-5.5:b\n"
    real = table.replace(b"@classLabel true a b", b"@targetLabel true").replace(b":a", b":0.5").replace(b":b", b":-1e3")
    for part in ("TRAIN", "TEST"):
        (series / f"Two_{part}.ts").write_bytes(table)
        (series / f"Real_{part}.ts").write_bytes(real)
    spikes = rng.integers(0, 2, (10, 8, 4)).astype(np.int16)
    waves = np.eye(6, dtype=np.uint8)[np.add.outer(np.arange(10), np.arange(8)) % 6]
    mats = []
    for compress in (False, True):
        stream = io.BytesIO()
        savemat(stream, {"x": spikes, "y": waves, "t": [1, 2]}, do_compression=compress)
        mats.append(stream.getvalue())
    beats = ecg / "QTDB_train.mat"
    return [
        Reader("npz", npz, own, (an_archive,), lambda: load("npz", npz)),
        Reader("braille", braille, (touched,), (an_archive,), lambda: load("braille", braille)),
        Reader("mnist", images, (images.read_bytes(),), (), lambda: load("mnist", mnist)),
        Reader("mnist .gz", zipped, (zipped.read_bytes(),), (a_stream,), lambda: load("mnist", packed)),
        Reader("speech .wav", speech / "0_x_0.wav", tuple(sounds), (), lambda: load("speech", speech, steps=4)),
        Reader("timeseries .ts", series / "Two_TRAIN.ts", (table,), TEXT, lambda: load("timeseries", series)),
        Reader(
            "timeseries targets", series / "Real_TRAIN.ts", (real,), TEXT,
            lambda: load("timeseries", series, problem="Real"),
        ),
        Reader("qtdb .mat", beats, tuple(mats), (), lambda: load("qtdb", ecg, steps=8)),
    ]  # fmt: skip


def _recorded(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        for name, kind, values in (("times", np.float16, [0.1, 0.5]), ("units", np.uint16, [7, 699])):
            rows = file.create_dataset(f"spikes/{name}", (3,), h5py.vlen_dtype(kind))
            for n in range(3):
                rows[n] = np.array(values, kind)
        file["labels"] = np.array([3, 0, 1])
    return path.read_bytes()


def _events(folder: Path) -> list[Reader]:
    """What reads recordings of events."""
    flat, gestures, converted, spoken = (folder / name for name in ("flat", "gestures", "converted", "spoken"))
    for one in (flat, gestures, spoken, *(converted / f"ibmGesture{part}" / "u" for part in ("Train", "Test"))):
        one.mkdir(parents=True)
    recording = b"".join(bytes([n, 3, 0x80, 0, n]) for n in range(6))
    for n in range(1, 6):
        (flat / f"{n}.bs2").write_bytes(recording)
    listed = b"#sample #class\r\n" + b"".join(b"%d\t0\r\n" % n for n in range(1, 6))
    (flat / "labels.txt").write_bytes(listed)
    words = b"".join(struct.pack("<II", n << 17 | n << 2 | 3, 100 * n) for n in range(1, 9))
    aedat = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, 8, 8, 8) + words
    table, trials = b"class,startTime_usec,endTime_usec\n1,0,400\n2,400,900\n", b"a.aedat\n"
    for name, raw in (("a.aedat", aedat), ("a_labels.csv", table)):
        (gestures / name).write_bytes(raw)
    for part in ("train", "test"):
        (gestures / f"trials_to_{part}.txt").write_bytes(trials)
    events = np.array([[1, 2, 0, 0], [127, 127, 1, 5000], [3, 3, 1, 20]], np.float64)
    arrays = npy(events), npy(events.astype(np.int64)), npy(events.astype(np.float32))
    for part in ("Train", "Test"):
        (converted / f"ibmGesture{part}" / "u" / "0.npy").write_bytes(arrays[0])
    hdf5 = (_recorded(spoken / "shd_test.h5"),)
    (spoken / "shd_train.h5").write_bytes(hdf5[0])

    def flat_ones() -> object:
        return load("nmnist", flat, steps=4, pool=17, duration_us=10)

    def gesture() -> object:
        return load("dvs-gesture", gestures, steps=4, pool=32, duration_us=1000)

    return [
        Reader("nmnist .bs2", flat / "1.bs2", (recording,), (), flat_ones),
        Reader("nmnist labels", flat / "labels.txt", (listed,), TEXT, flat_ones),
        Reader("dvs-gesture .aedat", gestures / "a.aedat", (aedat,), (), gesture),
        Reader("dvs-gesture labels", gestures / "a_labels.csv", (table,), TEXT, gesture),
        Reader("dvs-gesture trials", gestures / "trials_to_train.txt", (trials,), TEXT, gesture),
        Reader(
            "dvs-gesture .npy", converted / "ibmGestureTrain" / "u" / "0.npy", arrays, (an_array,),
            lambda: load("dvs-gesture", converted, steps=4, pool=32),
        ),
        Reader("shd .h5", spoken / "shd_train.h5", hdf5, (), lambda: load("shd", spoken, steps=4, pool=350)),
    ]  # fmt: skip


def readers(folder: Path) -> list[Reader]:
    """Every reader, over files that are made in the empty `folder`."""
    return [*_own(folder), *_tables(folder), *_events(folder)]
