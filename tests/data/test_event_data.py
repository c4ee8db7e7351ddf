"""Loaders of events and touch: small files in the real formats, whole and spoilt."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantal.qat.config import config_file
from quantal.qat.data.registry import load
from quantal.qat.training.run import load_data
from support.datasets import check, refuse
from support.recordings import event, write_labels

LABELLED = {12: 7, 3: 7, 5: 2, 1: 7, 9: 7, 2: 2, 4: 7, 8: 2, 6: 2, 7: 2, 11: 2}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Eleven recordings, of classes 7 and 2: an event in the first step, at x = the sample's number."""
    for sample in LABELLED:
        (tmp_path / f"{sample}.bs2").write_bytes(event(sample, 0, 0, 3000))
    write_labels(tmp_path, LABELLED)
    (tmp_path / "README.md").write_text("not a recording")
    return tmp_path


def test_nmnist_of_a_folder_with_labels(flat: Path) -> None:
    dataset = load("nmnist", flat, pool=1)
    check(dataset)
    assert dataset.train.x.shape == (9, 20, 2312)
    assert (dataset.classes, dataset.maximum, dataset.train.x.dtype) == (10, 1, np.uint8)
    assert dataset.test.x[:, 0].argmax(axis=1).tolist() == [4, 7]  # the fifth of each class, as labels.txt has them
    assert dataset.test.y.tolist() == [7, 2]
    assert dataset.train.x[:, 0].argmax(axis=1).tolist() == [12, 3, 5, 1, 9, 2, 8, 6, 11]
    assert dataset.train.y.tolist() == [7, 7, 2, 7, 7, 2, 2, 2, 2]
    assert load("nmnist", flat).train.x.shape == (9, 20, 578)


def test_nmnist_as_it_is_distributed(tmp_path: Path) -> None:
    for place, count in (("Train", 2), ("Test", 1)):
        for label in range(10):
            (tmp_path / place / str(label)).mkdir(parents=True)
            for n in range(count):
                content = event(10 * n + label, len(place), 1, 3000)
                (tmp_path / place / str(label) / f"{n:05}.bin").write_bytes(content)
    dataset = load("nmnist", tmp_path, pool=1, maximum=3)
    check(dataset)
    assert (len(dataset.train.y), len(dataset.test.y), dataset.classes, dataset.maximum) == (20, 10, 10, 3)
    for split, y in ((dataset.train, 5), (dataset.test, 4)):
        samples, channels = split.x[:, 0].nonzero()
        assert samples.tolist() == list(range(len(split.y)))
        assert ((channels - 34 * 34 - 34 * y) % 10 == split.y).all()
        assert (np.bincount(split.y) == len(split.y) // 10).all()
    empty = tmp_path / "Test" / "3"
    for path in empty.iterdir():
        path.unlink()
    refuse("nmnist", tmp_path, f"{empty}: recordings", ".bin")
    empty.rmdir()
    refuse("nmnist", tmp_path, f"{empty}: recordings", ".bin")
    (tmp_path / "Test").rename(tmp_path / "Probe")
    refuse("nmnist", tmp_path, "Test", "recordings", ".bin")


@pytest.mark.parametrize(
    ("steps", "pool", "maximum", "duration_us"),
    [(20, 2, 1, 300_000), (7, 1, 255, 100_000), (3, 3, 4, 99_999), (2, 34, 9, 1 << 23), (64, 17, 2, 5)],
)
def test_nmnist_counts_equal_their_definition(
    tmp_path: Path, steps: int, pool: int, maximum: int, duration_us: int
) -> None:
    rng = np.random.default_rng(steps)
    rows = [tuple(row) for row in rng.integers(0, (34, 34, 2, min(2**23, duration_us * 4 // 3)), (3000, 4)).tolist()]
    rows += [(33, 33, 1, 2**23 - 1), (0, 33, 0, duration_us - 1), (33, 0, 1, min(duration_us, 2**23 - 1)), (5, 9, 1, 0)]
    rows += [(1, 2, 0, 0)] * 300
    for sample in range(1, 6):
        (tmp_path / f"{sample}.bs2").write_bytes(b"".join(event(*row) for row in rows))
    write_labels(tmp_path, dict.fromkeys(range(1, 6), 0))
    side = int(np.ceil(34 / pool))
    expected = np.zeros((steps, 2, side, side), int)
    for x, y, polarity, time in rows:
        if time < duration_us:
            expected[time * steps // duration_us, polarity, y // pool, x // pool] += 1
    assert expected.max() > maximum
    options = {"steps": steps, "pool": pool, "maximum": maximum, "duration_us": duration_us}
    dataset = load("nmnist", tmp_path, **options)
    assert dataset.maximum == maximum
    np.testing.assert_array_equal(dataset.test.x[0], np.minimum(expected, maximum).reshape(steps, -1))


def test_nmnist_reads_the_bits_as_documented(flat: Path) -> None:
    # x 3, y 2, on, 0x0493DF = 299,999 us; x 33, y 1, off, 0x00FFFF = 65,535 us; and one too late at 300,000 us
    (flat / "4.bs2").write_bytes(bytes([3, 2, 0x84, 0x93, 0xDF, 33, 1, 0x00, 0xFF, 0xFF, 7, 7, 0x84, 0x93, 0xE0]))
    found = load("nmnist", flat).test.x[0].reshape(20, 2, 17, 17)
    assert np.argwhere(found).tolist() == [[4, 0, 0, 16], [19, 1, 1, 1]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["events", "5 bytes", "got 0"]),
        (event(1, 2, 0, 3)[:4], ["events", "5 bytes", "got 4"]),
        (event(1, 2, 0, 3) * 3 + b"\0", ["events", "5 bytes", "got 16"]),
        (event(1, 2, 0, 3) + event(34, 2, 0, 3), ["coordinates", "0..33", "34"]),
        (event(1, 240, 0, 1 << 22), ["coordinates", "0..33", "240"]),
    ],
)
def test_nmnist_refuses_malformed_events(flat: Path, content: bytes, words: list[str]) -> None:
    (flat / "8.bs2").write_bytes(content)
    refuse("nmnist", flat, "8.bs2", *words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("5\t10", ["line 4", "0..9", r"'5\t10'"]),
        ("5\t-1", ["line 4", "0..9"]),
        ("5", ["line 4", "0..9"]),
        ("5\t2\t2", ["line 4", "0..9"]),
        ("five\t2", ["line 4", "0..9"]),
        ("\u0665\t2", ["line 4", "0..9"]),
        ("5,2", ["line 4", "0..9"]),
        ("\xff", ["line 4", "0..9"]),
        ("3\t2", ["line 4", "once", "3 again"]),
        ("3\t7", ["line 4", "once", "3 again"]),
        ("10\t2", ["line 4", "10.bs2"]),
        ("9" * 9 + "\t2", ["line 4", f"{'9' * 9}.bs2"]),
        ("9" * 5000 + "\t2", ["line 4", "0..9"]),
    ],
)
def test_nmnist_refuses_malformed_labels(flat: Path, row: str, words: list[str]) -> None:
    path = flat / "labels.txt"
    path.write_bytes(path.read_bytes().replace(b"5\t2", row.encode("latin-1" if row == "\xff" else "utf-8"), 1))
    assert len(refuse("nmnist", flat, "labels.txt", *words)) < 400 + len(str(flat))


def test_nmnist_refuses_recordings_without_labels_and_labels_that_cannot_serve(flat: Path) -> None:
    path = flat / "labels.txt"
    for name in ("13.bs2", "05.bs2", "x.bs2"):
        (flat / name).write_bytes(event(1, 1, 1, 1))
        refuse("nmnist", flat, f"{name}: label", "labels.txt")
        (flat / name).unlink()
    (flat / "1.bs2").rename(flat / "spare")
    refuse("nmnist", flat, "labels.txt", "line 5", "1.bs2")
    (flat / "1.bs2").mkdir()
    refuse("nmnist", flat, "labels.txt", "line 5", "1.bs2")
    (flat / "1.bs2").rmdir()
    path.unlink()
    refuse("nmnist", flat, "labels.txt", "cannot be read")
    for recording in flat.glob("*.bs2"):
        recording.unlink()
    path.write_text("#sample #class\n\n")
    refuse("nmnist", flat, "labels.txt", "labels", "at least one")
    for sample in range(1, 9):
        (flat / f"{sample}.bs2").write_bytes(event(1, 1, 1, 1))
    write_labels(flat, {sample: sample % 2 for sample in range(1, 9)})
    refuse("nmnist", flat, "labels.txt", "five")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("steps", 0, "1..65535"), ("steps", "20", "1..65535"), ("steps", 2.0, "1..65535"),
        ("pool", 0, "1..34"), ("pool", 35, "1..34"), ("pool", True, "1..34"),
        ("maximum", 0, "1..255"), ("maximum", 256, "1..255"),
        ("duration_us", 0, "1..8388608"), ("duration_us", 8388609, "1..8388608"), ("duration_us", 3e5, "1..8388608"),
    ],
)  # fmt: skip
def test_nmnist_refuses_options_out_of_range(flat: Path, option: str, value: object, expected: str) -> None:
    refuse("nmnist", flat, f"nmnist: {option}: expected an integer {expected}", repr(value), **{option: value})


# --- braille ---

LENGTHS = [9, 7, 8, 9, 1, 9, 9, 5]


@pytest.fixture
def braille(tmp_path: Path) -> Callable[..., Path]:
    """Repetitions 0, 31, 32 and 39 of 'Space' and 'Z': nine frames of noise, of which not all were recorded."""
    frames = np.random.default_rng(0).integers(20, 256, (8, 9, 12)).astype(np.uint8)
    for n, length in enumerate(LENGTHS):
        frames[n, length:] = 0
    arrays = {
        "frames": frames,
        "length": np.array(LENGTHS, np.uint8),
        "label": np.repeat(np.array([0, 26], np.uint8), 4),
        "repetition": np.tile(np.array([0, 31, 32, 39], np.uint8), 2),
        "letters": np.array(["Space", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]),
    }

    def save(**changes: object) -> Path:
        kept = {name: array for name, array in (arrays | changes).items() if array is not None}
        np.savez(tmp_path / "braille.npz", **kept)
        return tmp_path

    return save


def felt(folder: Path, steps: int, baseline: str) -> np.ndarray:
    """What should come of the fixture's recordings, one by one."""
    with np.load(folder / "braille.npz") as file:
        frames, lengths = file["frames"].astype(int), file["length"].tolist()
    expected = np.zeros((len(frames), steps, 12), int)
    for n, length in enumerate(lengths):
        for t in range(steps):
            expected[n, t] = frames[n, min(t, length - 1)]
            if baseline == "lowest":
                expected[n, t] -= frames[n, :length].min(axis=0)
    return expected


@pytest.mark.parametrize("baseline", ["lowest", "none"])
@pytest.mark.parametrize("steps", [None, 3, 9, 14])
def test_braille(braille: Callable[..., Path], steps: int | None, baseline: str) -> None:
    folder = braille()
    dataset = load("braille", folder, steps=steps, baseline=baseline)
    check(dataset)
    assert (dataset.classes, dataset.maximum, dataset.train.x.dtype) == (27, 255, np.uint8)
    assert dataset.train.y.tolist() == dataset.test.y.tolist() == [0, 0, 26, 26]
    expected = felt(folder, steps or 9, baseline)
    np.testing.assert_array_equal(dataset.train.x, expected[[0, 1, 4, 5]])
    np.testing.assert_array_equal(dataset.test.x, expected[[2, 3, 6, 7]])


def test_braille_takes_the_file_too_and_splits_where_told(braille: Callable[..., Path]) -> None:
    folder = braille()
    dataset = load("braille", folder / "braille.npz")
    expected = felt(folder, 9, "lowest")
    np.testing.assert_array_equal(dataset.train.x, expected[[0, 1, 4, 5]])
    dataset = load("braille", folder, test_from=33)
    np.testing.assert_array_equal(dataset.test.x, expected[[3, 7]])
    dataset = load("braille", folder, test_from=1)
    np.testing.assert_array_equal(dataset.train.x, expected[[0, 4]])


def test_braille_does_not_give_away_how_long_a_recording_is(braille: Callable[..., Path]) -> None:
    still = np.full((8, 9, 12), 255, np.uint8)
    for n, length in enumerate(LENGTHS):
        still[n, length:] = 0
    for baseline, value in (("lowest", 0), ("none", 255)):
        dataset = load("braille", braille(frames=still), baseline=baseline, steps=20)
        assert (dataset.train.x == value).all()
        assert (dataset.test.x == value).all()


SHORT = np.zeros(7, np.uint8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": None}, ["frames", "found none"]),
        ({"length": None}, ["length", "found none"]),
        ({"label": None}, ["label", "found none"]),
        ({"repetition": None}, ["repetition", "found none"]),
        ({"letters": None}, ["letters", "one dimension"]),
        ({"letters": np.array("A")}, ["letters", "one dimension"]),
        ({"letters": np.array([], "<U1")}, ["letters", "one dimension"]),
        ({"letters": np.array(["A", None])}, ["letters", "plain numbers"]),
        ({"letters": np.array([*"ABC"])}, ["label", "0..2", "0..26"]),
        ({"frames": np.zeros((8, 9, 11), np.uint8)}, ["frames", "12", "(8, 9, 11)"]),
        ({"frames": np.zeros((8, 12, 9), np.uint8)}, ["frames", "12", "(8, 12, 9)"]),
        ({"frames": np.zeros((8, 12), np.uint8)}, ["frames", "3 dimensions", "(8, 12)"]),
        ({"frames": np.zeros((0, 9, 12), np.uint8)}, ["frames", "none empty"]),
        ({"frames": np.full((8, 9, 12), 256)}, ["frames", "0..255", "256"]),
        ({"frames": np.full((8, 9, 12), -1)}, ["frames", "0..255", "-1"]),
        ({"frames": np.full((8, 9, 12), 0.5)}, ["frames", "fractions"]),
        ({"frames": np.full((8, 9, 12), "x")}, ["frames", "integers", "<U1"]),
        ({"frames": np.full((8, 9, 12), None)}, ["frames", "plain numbers"]),
        ({"length": np.array([*LENGTHS[:7], 10])}, ["length", "0..9", "10"]),
        ({"length": np.array([*LENGTHS[:7], 0])}, ["length", "1..9", "got 0"]),
        ({"length": SHORT + 1}, ["length", "8 recordings", "got 7"]),
        ({"label": SHORT}, ["label", "8 recordings", "got 7"]),
        ({"label": np.full(8, 27)}, ["label", "0..26", "27"]),
        ({"label": np.zeros((8, 1), int)}, ["label", "1 dimensions", "(8, 1)"]),
        ({"label": np.full(8, "A")}, ["label", "integers", "<U1"]),
        ({"repetition": SHORT}, ["repetition", "8 recordings", "got 7"]),
        ({"repetition": np.array([0, 31, 32, 39, 0, 31, 39, 39])}, ["repetition", "once"]),
        ({"repetition": np.arange(8)}, ["repetition", "test_from (32)"]),
        ({"repetition": np.arange(32, 40)}, ["repetition", "test_from (32)"]),
    ],
)
def test_braille_refuses_malformed_arrays(
    braille: Callable[..., Path], changes: dict[str, object], words: list[str]
) -> None:
    refuse("braille", braille(**changes), f"braille.npz: {words[0]}: expected", *words)


def test_braille_refuses_what_is_no_npz_and_options_out_of_range(braille: Callable[..., Path]) -> None:
    folder = braille()
    for option, value, expected in (
        ("steps", 0, "1..65535"), ("steps", 65536, "1..65535"), ("steps", "77", "1..65535"),
        ("steps", True, "1..65535"), ("test_from", -1, "0..65535"), ("test_from", 32.0, "0..65535"),
        ("baseline", "first", "lowest or none"), ("baseline", 0, "lowest or none"),
    ):  # fmt: skip
        refuse("braille", folder, f"braille: {option}: expected", expected, repr(value), **{option: value})
    for test_from in (0, 40):
        refuse("braille", folder, "braille.npz: repetition", f"test_from ({test_from})", test_from=test_from)
    path = folder / "braille.npz"
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        refuse("braille", folder, "braille.npz: file:", "zip")
    payload = whole.index(np.array(LENGTHS, np.uint8).tobytes())
    path.write_bytes(whole[:payload] + b"\xff" + whole[payload + 1 :])
    refuse("braille", folder, "braille.npz: length:", "CRC")
    path.unlink()
    refuse("braille", folder, "braille.npz: data:", "a folder with braille.npz")


# --- both, in training ---


@pytest.mark.parametrize("task", ["nmnist", "braille"])
def test_the_encoder_says_how_many_steps_there_are(task: str, flat: Path, braille: Callable[..., Path]) -> None:
    braille()  # in the same folder
    text = f"""
        task = {{name = "{task}"}}
        encoder = {{steps = 6}}
        layer = [{{name = "readout", size = 27, neuron = "li"}}]
    """
    assert load_data(config_file.loads(text, "net"), flat).train.x.shape[1] == 6
