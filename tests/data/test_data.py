"""Loaders: small files in the real formats, whole and spoilt."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import get_window

from quantal.qat.data.registry import LOADERS, load
from support.datasets import check, load_or_refuse, refuse


def test_unknown_tasks_and_options(tmp_path: Path) -> None:
    refuse("chess", None, "task", ", ".join(LOADERS), "'chess'")
    refuse("digits", None, "options", "none", "'steps'", steps=3)
    refuse("speech", tmp_path, "options", "hop_ms", "'hop'", hop=3)


@pytest.mark.parametrize("task", sorted(LOADERS.keys() - {"digits"}))
def test_missing_data(task: str, tmp_path: Path) -> None:
    refuse(task, None, task, "data")
    refuse(task, tmp_path / "nowhere", "nowhere", "data")
    refuse(task, tmp_path / "two\nlines", "two lines")


def test_digits() -> None:
    dataset = load("digits", None)
    check(dataset)
    assert dataset.train.x.shape == (1442, 64)
    assert dataset.test.x.shape == (355, 64)
    assert (dataset.classes, dataset.maximum, dataset.train.x.max()) == (10, 16, 16)
    share = np.bincount(dataset.test.y) / (np.bincount(dataset.test.y) + np.bincount(dataset.train.y))
    assert ((share > 0.18) & (share <= 0.2)).all()
    again = load("digits", None)
    np.testing.assert_array_equal(dataset.test.x, again.test.x)


# --- mnist ---

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 4, 3))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Seven plain and five compressed images of 4 x 3."""
    for name, count in (("train", 7), ("t10k", 5)):
        for kind, array in ((IMAGES, pixels(count)), (LABELS, np.arange(count))):
            path = tmp_path / f"{name}-{kind}"
            if name == "train":
                path.write_bytes(idx(array))
            else:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_mnist(mnist: Path) -> None:
    dataset = load("mnist", mnist)
    check(dataset)
    for split, count in ((dataset.train, 7), (dataset.test, 5)):
        np.testing.assert_array_equal(split.x, pixels(count).reshape(count, 12))
        assert split.y.tolist() == list(range(count))
    assert (dataset.classes, dataset.maximum) == (10, 255)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (IMAGES, b"", ["magic", "0x00000803"]),
        (IMAGES, idx(np.arange(7)), ["magic", "0x00000803", "0x00000801"]),
        (IMAGES, b"\0\0\x0d\x03" + idx(pixels(7))[4:], ["magic", "0x00000d03"]),  # floats
        (IMAGES, idx(pixels(7))[:9], ["header", "16 bytes", "9"]),
        (IMAGES, idx(pixels(7))[:-1], ["payload", "84 bytes", "[7, 4, 3]", "83"]),
        (IMAGES, idx(pixels(7)) + b"\0", ["payload", "85"]),
        (IMAGES, struct.pack(">4I", 0x803, *[0xFFFFFFFF] * 3), ["payload"]),
        (IMAGES, idx(pixels(7)[:0]), ["dimensions", "[0, 4, 3]"]),
        (IMAGES, idx(pixels(7).reshape(7, 2, 6)), None),  # as many pixels
        (IMAGES, idx(pixels(14).reshape(7, 8, 3)), ["images", "24", "12"]),
        (LABELS, idx(pixels(7)), ["magic", "0x00000801"]),
        (LABELS, idx(np.arange(6)), ["labels", "7 images", "6"]),
        (LABELS, idx(np.arange(4, 11)), ["labels", "0..9", "10"]),
    ],
)
def test_mnist_refuses_malformed_idx(mnist: Path, name: str, content: bytes, words: list[str] | None) -> None:
    path = mnist / f"train-{name}"
    path.write_bytes(content)
    if words is None:
        check(load("mnist", mnist))
        return
    refuse("mnist", mnist, path.name if words[0] != "images" else str(mnist), *words)
    path.unlink()
    refuse("mnist", mnist, path.name, "file")


def test_mnist_refuses_any_cut_gz(mnist: Path) -> None:
    path = mnist / f"t10k-{IMAGES}.gz"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refuse("mnist", mnist, path.name)
    for at in range(10, len(whole)):  # after the gzip header, some of which may say anything
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        refuse("mnist", mnist, path.name)
    path.write_bytes(b"no gzip at all")
    refuse("mnist", mnist, path.name, "gzip")


# --- speech ---


def tone(hertz: float, seconds: float, rate: int = 8000, level: float = 8000) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz / rate * np.arange(round(seconds * rate)))).astype(np.int16)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Three digits by two speakers, indices 8..11: a tone per digit."""
    for digit in range(3):
        for speaker in ("ann", "b_2"):
            for index in range(8, 12):
                samples = tone(300 + 900 * digit, 0.2 + 0.01 * index)
                wavfile.write(tmp_path / f"{digit}_{speaker}_{index}.wav", 8000, samples)
    (tmp_path / "README.md").write_text("not a recording")
    return tmp_path


def one(folder: Path, samples: np.ndarray, rate: int = 8000, **options: object) -> np.ndarray:
    """The features of a recording, tested beside one to train on."""
    for name in ("0_a_1.wav", "0_a_10.wav"):
        wavfile.write(folder / name, rate, samples)
    return load("speech", folder, rate=rate, **options).test.x[0]


def test_speech(speech: Path) -> None:
    dataset = load("speech", speech)
    check(dataset)
    assert dataset.train.x.shape == dataset.test.x.shape == (12, 64, 40)
    assert dataset.train.x.dtype == np.uint8
    assert (dataset.classes, dataset.maximum) == (3, 255)
    assert dataset.test.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    loudest = dataset.test.x.sum(axis=1).argmax(axis=1).reshape(3, 4)
    assert (loudest == loudest[:, :1]).all()
    assert loudest[0, 0] < loudest[1, 0] < loudest[2, 0]
    assert (dataset.train.x.max(axis=(1, 2)) == 255).all()
    assert len(load("speech", speech, test_below=9).test.y) == 6
    below = speech / "recordings"
    below.mkdir()
    for path in speech.glob("*.wav"):
        path.rename(below / path.name)
    np.testing.assert_array_equal(load("speech", speech).train.x, dataset.train.x)


def test_speech_pads_crops_and_measures_decibels(tmp_path: Path) -> None:
    samples = np.concatenate([tone(1000, 0.5), tone(1000, 0.5, level=800), np.zeros(4000, np.int16)])
    x = one(tmp_path, samples, steps=128)
    assert not x[118:].any()  # 12,000 samples are 118 frames
    band = x[10].argmax()
    assert x[10, band] == 255
    assert x[50, band] == 170  # a tenth of the level, 20 of the 60 dB, down
    assert not x[90:118].any()
    np.testing.assert_array_equal(one(tmp_path, samples, steps=30), x[:30])
    assert one(tmp_path, samples, steps=60, floor_db=50)[50, band] == 153
    assert one(tmp_path, np.roll(samples, -4000), steps=30)[15, band] == 170  # the peak may come after the crop
    assert one(tmp_path, samples, steps=9, channels=20, hop_ms=16, frame_ms=25.0).shape == (9, 20)


def test_speech_takes_short_silent_and_8_bit_recordings(tmp_path: Path) -> None:
    for silence in (np.zeros(3000, np.int16), np.full(3000, -32768, np.int16), np.full(3000, 128, np.uint8)):
        assert not one(tmp_path, silence).any()
    samples = tone(1000, 0.01, level=100)
    short = one(tmp_path, samples)
    assert short[0].max() == 255
    assert not short[1:].any()
    np.testing.assert_array_equal(one(tmp_path, (samples + 128).astype(np.uint8)), short)
    fast = one(tmp_path, tone(1000, 0.5, rate=16000), 16000)
    assert fast.shape == (64, 40)


def test_speech_features_equal_their_definition(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2000, 3000) * np.linspace(1, 0.01, 3000) ** 2
    x = one(tmp_path, noise.astype(np.int16), channels=24)
    edges = np.linspace(*(2595 * np.log10(1 + hertz / 700) for hertz in (100, 4000)), 26)
    edges = 700 * (10 ** (edges / 2595) - 1)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(129), np.arange(256)) / 256)
    energy = np.zeros((28, 24))
    for t in range(28):
        power = abs(dft @ (get_window("hann", 256) * noise.astype(np.int16)[100 * t : 100 * t + 256])) ** 2
        for i in range(24):
            energy[t, i] = np.interp(8000 / 256 * np.arange(129), edges[i : i + 3], [0, 1, 0]) @ power
    expected = np.clip(255 + 10 * np.log10(energy / energy.max()) * 255 / 60, 0, 255)
    assert (expected == 0).any()
    np.testing.assert_allclose(x[:28], expected, rtol=0, atol=0.5 + 1e-6)
    assert not x[28:].any()


def spoil(speech: Path, content: bytes, *words: str, **options: object) -> None:
    path = speech / "1_ann_9.wav"
    path.write_bytes(content)
    refuse("speech", speech, path.name, *words, **options)


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def test_speech_refuses_malformed_wav(speech: Path) -> None:
    samples = tone(500, 0.1)
    whole = wav(samples)
    spoil(speech, wav(samples, 16000), "sample rate", "8000", "16000")
    spoil(speech, wav(np.stack([samples, samples], axis=1)), "channels", "2")
    spoil(speech, wav(samples.astype(np.int32)), "samples", "int32")
    spoil(speech, wav(samples.astype(np.float32)), "samples", "float32")
    spoil(speech, wav(samples[:0]), "samples", "at least one")
    spoil(speech, b"", "wav")
    spoil(speech, b"RIFX" + whole[4:], "wav")
    spoil(speech, whole[:36], "wav")
    spoil(speech, struct.pack("<4sI4s", b"RIFF", 28, b"WAVE") + whole[12:36], "wav", "no data chunk")
    spoil(speech, whole.replace(b"data", b"atad"), "wav", "no data chunk")
    spoil(speech, whole[:40] + b"\xff" * 4 + whole[44:], "wav", "cut short")
    spoil(speech, whole[:20] + b"\x07\0" + whole[22:], "wav", "MULAW")


def test_speech_refuses_any_cut_wav_and_survives_any_spoilt_byte(tmp_path: Path) -> None:
    whole = wav(tone(500, 0.01))
    (tmp_path / "0_a_20.wav").write_bytes(whole)
    path = tmp_path / "0_a_0.wav"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refuse("speech", tmp_path, path.name)
    for at in range(44):
        for bits in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
            load_or_refuse("speech", tmp_path, path.name)


@pytest.mark.parametrize(
    "name", ["seven_ann_3.wav", "7.wav", "_7_ann_3.wav", "7_ann.wav", "-7_ann_3.wav", "7_3_ann.wav"]
)
def test_speech_refuses_names_without_label_or_index(speech: Path, name: str) -> None:
    wavfile.write(speech / name, 8000, tone(500, 0.1))
    refuse("speech", speech, name, "name", "label_..._index.wav")


def test_speech_refuses_folders_and_options_that_cannot_serve(speech: Path) -> None:
    refuse("speech", speech, "recordings", "test_below", test_below=0)
    refuse("speech", speech, "recordings", "test_below", test_below=50)
    for option, value in (
        ("steps", 0), ("steps", "64"), ("channels", 0), ("channels", 400), ("rate", 10), ("test_below", -1),
        ("floor_db", 0), ("floor_db", float("nan")), ("hop_ms", True), ("frame_ms", "x"),
    ):  # fmt: skip
        refuse("speech", speech, option, **{option: value})
    for path in speech.glob("*.wav"):
        path.unlink()
    refuse("speech", speech, speech.name, "recordings", ".wav")
    (speech / "0_a_1.wav").mkdir()
    refuse("speech", speech, "0_a_1.wav", "cannot be read")


# --- npz ---


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    def save(**arrays: object) -> Path:
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return save


X, Y = np.arange(60).reshape(20, 3), np.arange(20) % 2


def test_npz(npz: Callable[..., Path]) -> None:
    dataset = load("npz", npz(x=X, y=Y))
    check(dataset)
    assert dataset.test.x[:, 0].tolist() == [24, 27, 54, 57]  # the fifth and tenth of each class
    assert dataset.test.y.tolist() == [0, 1, 0, 1]
    assert (dataset.classes, dataset.maximum, len(dataset.train.y)) == (2, 59, 16)

    dataset = load("npz", npz(x_train=X, y_train=Y, x_test=X[:2] * 10.0, y_test=Y[:2] + 4.0, classes=9))
    check(dataset)
    assert (dataset.classes, dataset.maximum) == (9, 59)
    np.testing.assert_array_equal(dataset.test.x, X[:2] * 10)
    assert dataset.test.y.tolist() == [4, 5]

    spikes = np.zeros((10, 7, 3), bool)
    dataset = load("npz", npz(x=spikes, y=np.zeros(10, np.uint8)))
    check(dataset)
    assert dataset.train.x.shape == (8, 7, 3)
    assert (dataset.classes, dataset.maximum) == (1, 1)
    assert load("npz", npz(x=X * 1000, y=Y)).train.x.dtype == np.uint16


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, ["x", "found none"]),
        ({"x": X}, ["y", "found none"]),
        ({"x_train": X, "y_train": Y, "x_test": X}, ["y_test", "found none"]),
        ({"y_test": Y, "x": X, "y": Y}, ["x_train", "found none"]),
        ({"x": X, "y": Y[:-1]}, ["y", "20 samples", "19"]),
        ({"x": X, "y": Y - 1}, ["y", "-1..0"]),
        ({"x": X - 1, "y": Y}, ["x", "-1..58"]),
        ({"x": X * 2000, "y": Y}, ["x", "0..65535", "118000"]),
        ({"x": X + 0.5, "y": Y}, ["x", "fractions"]),
        ({"x": np.where(X == 7, np.nan, X), "y": Y}, ["x", "NaN"]),
        ({"x": np.where(X == 7, np.inf, X), "y": Y}, ["x", "infinity"]),
        ({"x": X, "y": Y + 0.5}, ["y", "fractions"]),
        ({"x": X + 1j, "y": Y}, ["x", "complex"]),
        ({"x": X.astype(str), "y": Y}, ["x", "<U"]),
        ({"x": X.astype(object), "y": Y}, ["x", "plain numbers"]),
        ({"x": X[:, 0], "y": Y}, ["x", "2 or 3 dimensions", "(20,)"]),
        ({"x": X.reshape(20, 1, 1, 3), "y": Y}, ["x", "2 or 3 dimensions"]),
        ({"x": X[:0], "y": Y[:0]}, ["x", "none empty"]),
        ({"x": X, "y": Y[:, None]}, ["y", "each sample", "each step"]),
        ({"x": X[:4], "y": Y[:4]}, ["y", "five samples"]),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, ["x_test", "(3,)", "(2,)"]),
        ({"x": X, "y": Y, "classes": 1}, ["classes", "largest label, 1", "got 1"]),
        ({"x": X, "y": Y, "classes": [2]}, ["classes", "dimensions"]),
        ({"x": X, "y": Y, "classes": "two"}, ["classes", "integers"]),
    ],
)
def test_npz_refuses_malformed_arrays(npz: Callable[..., Path], arrays: dict, words: list[str]) -> None:
    refuse("npz", npz(**arrays), f"set.npz: {words[0]}:", *words)


def test_npz_refuses_what_is_no_npz(npz: Callable[..., Path], tmp_path: Path) -> None:
    path = npz(x=X, y=Y)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        refuse("npz", path, "set.npz: file:", "zip")
    payload = whole.index(X.tobytes())
    path.write_bytes(whole[:payload] + b"\xff" + whole[payload + 1 :])
    refuse("npz", path, "set.npz: x:", "CRC")
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        load_or_refuse("npz", path, "set.npz")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", b"text")
    refuse("npz", path, "set.npz: ")
    with path.open("wb") as file:
        np.save(file, X)
    refuse("npz", path, "set.npz: file:", "zip")
    refuse("npz", tmp_path, "data", ".npz file")
