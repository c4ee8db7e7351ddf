"""Hostile files: every reader of quantal with small valid files of its kind, and what may be done to their bytes.

Which change is made follows from the reader's name and a number alone, so that any input can be made again.
"""

import gzip
import io
import json
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from rich.progress import Progress
from scipy.io import savemat, wavfile

from export import network_file, vectors
from export.build import Build, write_build
from qat import config_file
from qat.data import load
from qat.lower import exact_dtype, lower
from qat.network import hard_trace
from qat.train import Run, load_data

Change = Callable[[random.Random, bytes], bytes]


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


# ---- changes of bytes

_NUMBERS = (*range(4), *(2**n + d for n in (3, 7, 8, 12, 15, 16, 24, 31, 32, 40, 63) for d in (-1, 0)))
_REALS = ("nan", "inf", "-inf", "1e30", "1e308", "-1e308", "1e-320", "-0.0", "0.5")
_LITERALS = (
    *map(str, _NUMBERS), *(f"-{n}" for n in _NUMBERS), *_REALS, "9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 8000,
    "1_0", "true", "null", '""', '"x"', '"\\u0000"', '"\\ud800"', '"../../x"', f'"{"y" * 3000}"', '"\\n"', "🙂",
    "[]", "{}", "[[1]]", "[1, 2, 3]", '{"a": 1}', "[" * 3000, "[" * 200 + "]" * 200, "1979-05-27", "'", "#",
)  # fmt: skip


def _flip(rng: random.Random, content: bytes) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if raw:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return (
        content[:at] + rng.choice((rng.randbytes(rng.randrange(1, 40)), b"\0" * rng.randrange(1, 200))) + content[at:]
    )


def _repeat(rng: random.Random, content: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:b] + content[a:b] * rng.choice((1, 2, 20)) + content[b:] if b - a < 10_000 else content


def _remove(rng: random.Random, content: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:a] + content[b:]


def _number(rng: random.Random, content: bytes) -> bytes:
    """Writes a number of 1, 2, 4 or 8 bytes, of either order, somewhere: into a header, as a rule of small files."""
    size = rng.choice((1, 2, 4, 8))
    if len(content) < size:
        return content
    at = rng.randrange(min(len(content), rng.choice((64, 512, 10**9))) - size + 1)
    value = rng.choice((*_NUMBERS, len(content), rng.randrange(256))) * rng.choice((1, 1, -1)) % 256**size
    return content[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + content[at + size :]


BYTES: tuple[Change, ...] = (_flip, _cut, _insert, _repeat, _remove, _number)


# ---- changes of text


def _literal(rng: random.Random, content: bytes) -> bytes:
    """Another value in the place of a number, a string or a word."""
    found = [*re.finditer(rb'-?[0-9][0-9.eE+]*|"[^"\n]{0,40}"|\btrue\b|\bfalse\b', content)]
    if not found:
        return content
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(_LITERALS).encode() + content[match.end() :]


def _line(rng: random.Random, content: bytes) -> bytes:
    """A line left out, doubled, moved, or all of them with other ends."""
    rows = content.split(b"\n")
    i, j = (rng.randrange(len(rows)) for _ in range(2))
    what = rng.randrange(6)
    if what == 0:
        del rows[i]
    elif what == 1:
        rows.insert(i, rows[j])
    elif what == 2:
        rows[i], rows[j] = rows[j], rows[i]
    elif what == 3:
        return rng.choice((b"\r\n", b"\r", b"\x0b", b"\xe2\x80\xa8")).join(rows)
    elif what == 4:
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0")) + content
    else:
        rows[i] = rows[i] * rng.choice((2, 50))
    return b"\n".join(rows)


def _key(rng: random.Random, content: bytes) -> bytes:
    """A word of the file in the place of another, or in capital letters."""
    words = [*re.finditer(rb"[A-Za-z_][A-Za-z_0-9]*", content)]
    if not words:
        return content
    match, other = rng.choice(words), rng.choice(words).group()
    return content[: match.start()] + rng.choice((other, other, match.group().upper())) + content[match.end() :]


_FIELDS = [
    f"{name} = {value}"
    for name, values in {
        "size": (1, 3, 65_536, 32_768), "recurrent": ("true",), "neuron": ('"li"', '"alpha"', '"step"', '"count"'),
        "connection": ('"conv"', '"pool"'), "channels": (1, 65_536), "groups": (2,), "shape": ("[1, 6]", "[1, 6, 1]"),
        "kernel": ("[2]", "[65535]", "[1, 1]", "[0]"), "stride": ("[1]", "[65535]"), "padding": ("[1]", "[65534]"),
        "delays": ("[0, 4096]", "[1]", "[-1]"), "inputs": ('["input"]', '["a", "input"]'), "add": ('"a"',),
        "states": (1, 2, 16, '"float"'), "weights": (1, 8, '"learned"', '"float"'), "norm": ('"psp"', '"batch"'),
        "state_quantizer": ('"squat"', '"shared"', '"aligned"', '"dq"'), "steps": (1, 65_535), "spikes": (15,),
        "reset": ('"zero"', '"none"'), "timing": ('"immediate"', '"snntorch"'), "adaptation": (1, 1000), "rate": (0,),
        "method": ('"ridge"', '"saf-e"'), "loss": ('"steps"', '"regression"'), "budget": (1, 2**31 - 1), "a.b.c": (1,),
        ".".join("k" * 20): (1,), ".".join("k" * 2000): (1,), "n" * 2000: (1,), '"a\\nb"': (1,),
        "pool": (1, '"max"', "[" + "1," * 999 + "]"),
    }.items()
    for value in values
]  # fmt: skip


def _field(rng: random.Random, content: bytes) -> bytes:
    """One more line that says something of a layer or of the training."""
    rows = content.split(b"\n")
    rows.insert(rng.randrange(len(rows) + 1), rng.choice(_FIELDS).encode())
    return b"\n".join(rows)


def _tree(rng: random.Random, content: bytes) -> bytes:
    """JSON of which one value is another, gone, or twice there."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        value = pending.pop()
        inside = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(value))
            if isinstance(value, list)
            else []
        )
        places += [(value, key) for key, _ in inside]
        pending += [item for _, item in inside]
    if not places:
        return content
    (holder, key), (other, from_key) = (rng.choice(places) for _ in range(2))
    what = rng.randrange(5)
    if what == 0:
        del holder[key]
    elif what == 1:
        holder[key] = json.loads(json.dumps(other[from_key]))
    elif what == 2 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * rng.choice((1, 3, 300))
    elif what == 3 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "\0", "é" * 500, str(from_key)))] = holder.pop(key)
    else:
        number = rng.choice(_NUMBERS) * rng.choice((1, -1))
        holder[key] = rng.choice(
            (number, float(rng.choice(_REALS)), None, True, [], {}, "x" * 999, f"{number} 1", [[]], "1 " * 3000)
        )
    return json.dumps(document).encode()


TEXT: tuple[Change, ...] = (_literal, _line, _key)


# ---- changes of arrays


def _spoilt(rng: random.Random, array: np.ndarray) -> np.ndarray:
    what = rng.randrange(8)
    if what == 0:
        kind = rng.choice(
            ("f2", "f4", "f8", "i1", "u1", "i2", "<u8", ">i4", ">f8", "c8", "?", "U3", "S2", "g", "M8[s]", "O")
        )
        with np.errstate(all="ignore"):
            return array.astype(kind) if array.dtype.kind in "biuf" else array
    if what == 1:
        return array.reshape(rng.choice(((-1,), (1, *array.shape), (*array.shape, 1), (*array.shape, 1, 1, 1, 1))))
    if what == 2:
        return array[: rng.randrange(max(1, len(array)))] if array.ndim else array[None]
    if what == 3:
        return np.asfortranarray(array.T if rng.randrange(2) else array)
    if what == 4 and array.size:
        array = (
            array.astype(rng.choice(("f2", "f4", "f8")))
            if array.dtype.kind in "biuf" and rng.randrange(2)
            else array.copy()
        )
        if array.dtype.kind == "f":
            with np.errstate(all="ignore"):
                array.flat[rng.randrange(array.size)] = float(rng.choice(_REALS))
        elif array.dtype.kind in "iu":
            lo, hi = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
            array.flat[rng.randrange(array.size)] = rng.choice(
                (lo, hi, 0, 255 if hi >= 255 else hi, -1 if lo < 0 else 1)
            )
        return array
    if what == 5:
        return np.zeros(rng.choice(((0,), (0, 3), (), (10**5,), (50, 4, 3))), array.dtype)
    if what == 6 and array.ndim:
        return np.repeat(array, rng.choice((2, 40)), axis=rng.randrange(array.ndim))
    return np.array(["a", "bc"])


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def _array(rng: random.Random, content: bytes) -> bytes:
    """A .npy file of another array, or with a header that says so."""
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception:
        return content
    return _lied(rng, content) if rng.randrange(2) else npy(_spoilt(rng, array))


def _lied(rng: random.Random, content: bytes) -> bytes:
    """The header of a .npy file says another shape or type; its length stays."""
    start = content.find(b"{", 0, 20)
    end = content.find(b"\n", max(start, 0))
    if min(start, end) < 0:
        return content
    shape = tuple(rng.choice((*_NUMBERS, -1, 3)) for _ in range(rng.choice((0, 1, 2, 3, 3, 40))))
    kind = rng.choice(("<i8", "|u1", "<f2", "|O", "<U0", "<U99999", "|V8", "(9999,)<i8", "x"))
    text = content[start:end].decode("latin-1")
    if rng.randrange(4):
        text = re.sub(r"\([^)]*\)", str(shape), text, count=1)
    else:
        text = re.sub(r"'descr': '[^']*'", f"'descr': {kind!r}", text)
    text = rng.choice((text, text, text, "(" * 90, "{" * 9000, "__import__('os').abort()")).ljust(end - start)
    head = content[:8] + struct.pack("<H", min(65_535, len(text) + 1 + start - 10))
    return head + content[10:start] + text.encode("latin-1") + content[end:]


def _archive(rng: random.Random, content: bytes) -> bytes:
    """A .npz file of which a member is another, gone, twice there, under another name, or larger than it seems."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:
        return content
    if not members:
        return content
    i = rng.randrange(len(members))
    name, inside = members[i]
    what = rng.randrange(9)
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if what == 0:
        del members[i]
        method = rng.choice((method, method, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif what == 1:
        members.append((name, inside))
    elif what == 2:
        members[i] = (
            rng.choice((name.removesuffix(".npy"), "x.npy", "\0.npy", "../x.npy", "y" * 9000 + ".npy", "é.npy")),
            inside,
        )
    elif what == 3:
        members[i] = (name, rng.choice(BYTES)(rng, inside))
    elif what == 4:
        members[i] = (name, rng.choice(members)[1])
    elif what == 5 and not rng.randrange(4):
        members[i] = (name, _bomb(rng))
    else:
        members[i] = (name, _array(rng, inside))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(stream, "w", method, compresslevel=1) as archive:
            for one, inside in members:
                archive.writestr(one.partition("\0")[0] or "x", inside)
    return stream.getvalue()


_BOMBS = [npy(np.zeros(shape, np.uint8)) for shape in ((4_000_000,), (1000, 1000, 4), (20, 5, 40_000), (20, 200_000))]


def _bomb(rng: random.Random) -> bytes:
    """A member of many zeros, with a header that fits them."""
    return rng.choice(_BOMBS)


def _packed(rng: random.Random, content: bytes) -> bytes:
    """A gzip stream of what is changed inside, or of many zeros behind the header that is there."""
    try:
        raw = gzip.decompress(content)
    except Exception:
        return content
    raw = rng.choice((_number, _flip, _cut))(rng, raw) if rng.randrange(8) else raw[:16] + bytes(4_000_000)
    return gzip.compress(raw, 1) * rng.choice((1, 1, 1, 2))


def _tensors(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with another header before the same bytes."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length < len(content):
        return content
    header = rng.choice((_tree, _tree, *TEXT))(rng, content[8 : 8 + length])
    size = len(header) if rng.randrange(6) else rng.choice(_NUMBERS) % 2**64
    return size.to_bytes(8, "little") + header + content[8 + length :]


def _values(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with other numbers in it: of a float, infinity, NaN, nothing."""
    start = 8 + int.from_bytes(content[:8], "little")
    if start + 8 >= len(content):
        return content
    at = rng.randrange(start, len(content) - 4) // 4 * 4
    number = struct.pack("<f", rng.choice((0.0, -1.0, 1e30, -1e30, 1e-30, float("inf"), float("nan"), 3e38, 1e-45)))
    return content[:at] + number + content[at + 4 :]


# ---- the readers

_DENSE = """[task]
name = "npz"
[encoder]
steps = 5
[[layer]]
name = "a"
size = 3
recurrent = true
adaptation = 0.5
[[layer]]
name = "b"
size = 2
inputs = ["a", "input"]
delays = [0, 2]
state_quantizer = "squat"
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
synapse = "exponential"
[[layer]]
name = "p"
connection = "pool"
neuron = "none"
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
    run = Run.create(folder / f"{name}-run", config, data)
    lowered = lower(run.network, name)
    x = run.samples().x
    write_build(folder / f"{name}-build", lowered, x, hard_trace(run.network, x, exact_dtype(lowered)))
    return run, Build.open(folder / f"{name}-build")


def _build(built: Build) -> Build:
    """The build, opened again; its network, which another reader is for, is there already."""
    with mock.patch("export.build.network_file.load", return_value=built.network):
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
        Reader("network.toml", toml, configured, (*TEXT, _field, _field), lambda: config_file.load(toml)),
        Reader("network.json", network, networks, (*TEXT, _tree, _tree), lambda: network_file.load(network)),
        Reader("MANIFEST.json", manifest, (manifest.read_bytes(),), (*TEXT, _tree), lambda: _build(built)),
        Reader(
            "vectors.npz", golden, ((built.path / "vectors.npz").read_bytes(),), (_archive,),
            lambda: vectors.load(golden, built.network),
        ),
        Reader("samples.npz", samples, (samples.read_bytes(),), (_archive,), dense.samples),
        Reader(
            "checkpoint.safetensors", checkpoint, (checkpoint.read_bytes(),), (_tensors, _values),
            lambda: Run.open(dense.path),
        ),
        Reader("metrics.jsonl", metrics, (lines,), TEXT, lambda: dense.train(data, 0, silent)),
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
            (packed / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw))
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
        Reader("npz", npz, own, (_archive,), lambda: load("npz", npz)),
        Reader("braille", braille, (touched,), (_archive,), lambda: load("braille", braille)),
        Reader("mnist", images, (images.read_bytes(),), (), lambda: load("mnist", mnist)),
        Reader("mnist .gz", zipped, (zipped.read_bytes(),), (_packed,), lambda: load("mnist", packed)),
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

    def gesture() -> object:
        return load("dvs-gesture", gestures, steps=4, pool=32)

    return [
        Reader("nmnist .bs2", flat / "1.bs2", (recording,), (), lambda: load("nmnist", flat, steps=4, pool=17)),
        Reader("nmnist labels", flat / "labels.txt", (listed,), TEXT, lambda: load("nmnist", flat, steps=4, pool=17)),
        Reader("dvs-gesture .aedat", gestures / "a.aedat", (aedat,), (), gesture),
        Reader("dvs-gesture labels", gestures / "a_labels.csv", (table,), TEXT, gesture),
        Reader("dvs-gesture trials", gestures / "trials_to_train.txt", (trials,), TEXT, gesture),
        Reader(
            "dvs-gesture .npy", converted / "ibmGestureTrain" / "u" / "0.npy", arrays, (_array,),
            lambda: load("dvs-gesture", converted, steps=4, pool=32),
        ),
        Reader("shd .h5", spoken / "shd_train.h5", hdf5, (), lambda: load("shd", spoken, steps=4, pool=350)),
    ]  # fmt: skip


def readers(folder: Path) -> list[Reader]:
    """Every reader, over files that are made in the empty `folder`."""
    return [*_own(folder), *_tables(folder), *_events(folder)]
