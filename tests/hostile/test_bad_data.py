"""Data sets that cannot serve: one line that names the file and what was expected."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from support.commands import NETWORK, TRAIN, refused, succeed
from support.damage import spoil

# ---- data sets

SEQUENCES = {"x": np.arange(20 * 6 * 3).reshape(20, 6, 3) % 50, "y": np.arange(20) % 2}
NPZ = (
    NETWORK.replace("digits", "npz").replace("size = 10", "size = 2").replace("steps = 4", 'steps = 6\nkind = "delta"')
)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": None}, "data.npz: x:"),
        ({"y": None}, "data.npz: y:"),
        ({"x": SEQUENCES["x"] + 0.5}, "data.npz: x: fractions"),
        ({"x": SEQUENCES["x"] - 1}, "data.npz: x: -1"),
        ({"x": SEQUENCES["x"] * 2000}, "data.npz: x: 65535"),
        ({"x": np.full((20, 6, 3), "x")}, "data.npz: x: integers"),
        ({"x": SEQUENCES["x"][:19]}, "data.npz: y: 19 20"),
        ({"x": SEQUENCES["x"][..., None]}, "data.npz: x: (20, 6, 3, 1)"),
        ({"x": SEQUENCES["x"][:, 0]}, "encoding delta: x: (20, 3) sequences"),
        ({"x": SEQUENCES["x"][:, 1:]}, "encoding delta: steps: 5 6"),
        ({"x": SEQUENCES["x"] // 10}, "encoding delta: delta: 4"),
        ({"y": SEQUENCES["y"] + 1}, "readout: size: 3 npz 2"),
        ({"y": SEQUENCES["y"] * 0}, "readout: size: 1 npz 2"),
        ({"y": SEQUENCES["y"] - 1}, "data.npz: y: -1"),
        ({"y": np.arange(20)}, "data.npz: y: five"),
        ({"classes": np.int64(1)}, "data.npz: classes: 1"),
    ],
)
def test_npz_data(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    (place / "net.toml").write_text(NPZ)
    np.savez("data.npz", **SEQUENCES)
    spoil("data.npz", arrays)
    refused(place, f"{TRAIN} --data data.npz", *words.replace("(20, 3)", "").split())


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"no zip"])
def test_npz_data_that_is_no_zip(place: Path, content: bytes) -> None:
    (place / "net.toml").write_text(NPZ)
    (place / "data.npz").write_bytes(content)
    refused(place, f"{TRAIN} --data data.npz", "data.npz")
    refused(place, f"{TRAIN} --data nowhere.npz", "nowhere.npz: data")
    refused(place, TRAIN, "npz: data")
    with zipfile.ZipFile("data.npz", "w") as file:
        file.writestr("x.npy", content)
    refused(place, f"{TRAIN} --data data.npz", "data.npz")


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (SEQUENCES["x"][:, :, :2], SEQUENCES["y"], "trained on 3 channels 0..49 2"),
        (SEQUENCES["x"] + 1, SEQUENCES["y"], "trained on 3 channels 0..49 0..50"),
        (SEQUENCES["x"], SEQUENCES["y"] + 1, "readout: size: 3 2"),
        (SEQUENCES["x"][:, :4], SEQUENCES["y"], "steps: 4 6"),
    ],
)
def test_data_of_another_shape(place: Path, x: np.ndarray, y: np.ndarray, words: str) -> None:
    (place / "net.toml").write_text(NPZ)
    np.savez("data.npz", **SEQUENCES)
    succeed(*TRAIN.split(), "--data", "data.npz")
    succeed("export", "new", "--out", "made")
    np.savez("data.npz", x=x, y=y)
    words = words.replace("trained on", "new: made for")
    refused(place, "train --resume --epochs 2 --out new --data data.npz", *words.split())
    refused(place, "verify made --on interpreter --run new --data data.npz", *words.split())
    refused(place, "verify made --on interpreter --run new --samples 3", "npz: data")


def write_idx(folder: Path) -> None:
    """A small data set in MNIST's format."""
    folder.mkdir()
    for name, count in (("train", 20), ("t10k", 10)):
        shape = b"".join(n.to_bytes(4, "big") for n in (0x0803, count, 4, 4))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(shape + bytes(count * 16))
        labels = b"".join(n.to_bytes(4, "big") for n in (0x0801, count))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels + bytes(n % 10 for n in range(count)))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "payload:"),
        ("train-images-idx3-ubyte", lambda b: b[:7], "header:"),
        ("train-images-idx3-ubyte", lambda b: b"", "magic:"),
        ("train-labels-idx1-ubyte", lambda b: b"\1" + b[1:], "magic:"),
        ("train-labels-idx1-ubyte", lambda b: b[:-1] + b"\12", "labels: 0..9"),
        ("t10k-images-idx3-ubyte", lambda b: b[:4] + b"\xff" + b[5:], "payload:"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + b"\0\0\0\0", "dimensions:"),
    ],
)
def test_idx_data(place: Path, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    write_idx(place / "data")
    path = place / "data" / name
    path.write_bytes(damage(path.read_bytes()))
    refused(place, "train --task mnist --data data --out new", name, *words.split())


def wav(rate: int) -> bytes:
    """A recording of 800 samples."""
    stream = io.BytesIO()
    wavfile.write(stream, rate, np.arange(-400, 400, dtype=np.int16))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("0_x_0.wav", lambda b: b[:-1], "wav:"),
        ("0_x_0.wav", lambda b: b[:30], "wav:"),
        ("0_x_0.wav", lambda b: b"", "wav:"),
        ("0_x_0.wav", lambda b: np.random.default_rng(0).bytes(400), "wav:"),
        ("0_x_0.wav", lambda b: wav(4000), "rate: 8000 4000"),
        ("zero.wav", lambda b: b, "name: label"),
    ],
)
def test_wav_data(place: Path, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    (place / "data").mkdir()
    (place / "data" / "1_x_11.wav").write_bytes(wav(8000))
    (place / "data" / name).write_bytes(damage(wav(8000)))
    refused(place, "train --task speech --data data --out new", name, *words.split())


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("2.bs2", lambda b: b[:-1], "events: 5 9"),
        ("2.bs2", lambda b: b"", "events: 5 0"),
        ("2.bs2", lambda b: b"\x22" + b[1:], "coordinates: 0..33 34"),
        ("labels.txt", lambda b: b.replace(b"2\t0", b"2\t10"), "line 3: class '2\\t10'"),
        ("labels.txt", lambda b: b.replace(b"2\t0", b"1\t0"), "line 3: once 1"),
        ("labels.txt", lambda b: b + b"7\t0\r\n", "line 7: 7.bs2"),
        ("labels.txt", lambda b: b[: b.index(b"5\t")], "5.bs2: label:"),
    ],
)
def test_event_data(place: Path, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    (place / "net.toml").write_text(NETWORK.replace("digits", "nmnist"))
    (place / "data").mkdir()
    for n in range(1, 6):
        (place / "data" / f"{n}.bs2").write_bytes(bytes([n, 3, 0x80, 0, n]) * 2)
    labels = "".join(f"{n}\t0\r\n" for n in range(1, 6))
    (place / "data" / "labels.txt").write_bytes(f"#sample #class\r\n{labels}".encode())
    path = place / "data" / name
    path.write_bytes(damage(path.read_bytes()))
    refused(place, f"{TRAIN} --data data", "" if ".bs2: label" in words else name, *words.split())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"frames": None}, "frames: none"),
        ({"frames": np.zeros((4, 9, 11), np.uint8)}, "frames: (4, 9, 11)".replace(", ", ",")),
        ({"label": np.full(4, 27)}, "label: 0..26 27"),
        ({"label": np.zeros(3)}, "label: 4 3"),
        ({"length": np.full(4, 10)}, "length: 0..9 10"),
        ({"repetition": np.arange(4)}, "repetition: test_from"),
        ({"letters": None}, "letters:"),
    ],
)
def test_tactile_data(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    (place / "net.toml").write_text(NETWORK.replace("digits", "braille"))
    names = np.array([chr(ord("@") + n) for n in range(27)])
    whole = {"frames": np.zeros((4, 9, 12), np.uint8), "length": np.full(4, 9), "label": np.arange(4)}
    np.savez("braille.npz", **whole, repetition=np.arange(30, 34), letters=names)
    spoil("braille.npz", arrays)
    refused(place, f"{TRAIN} --data braille.npz", "braille.npz", *words.replace(",", " ").split())
