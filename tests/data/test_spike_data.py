"""Loaders of spikes in HDF5, AEDAT and .mat: small files in the published formats, whole and spoilt."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from quantal.qat.data.registry import load
from support.datasets import check, refuse
from support.recordings import HEADER, SPOKEN, TABLE, gesture_event, packet, write_spoken


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    for name in ("shd_train", "shd_test", "ssc_train", "ssc_valid", "ssc_test"):
        write_spoken(tmp_path / f"{name}.h5")
    return tmp_path


@pytest.mark.parametrize(("steps", "pool", "maximum"), [(4, 1, 1), (100, 1, 3), (7, 3, 255), (5, 700, 2)])
def test_shd_counts_equal_their_definition(spoken: Path, steps: int, pool: int, maximum: int) -> None:
    dataset = load("shd", spoken, steps=steps, pool=pool, maximum=maximum)
    channels = -(-700 // pool)
    expected = np.zeros((3, steps, channels), int)
    for n, (times, units) in enumerate(SPOKEN):
        for time, unit in zip(times, units, strict=True):
            if (step := int(float(np.float16(time)) * steps)) < steps:
                expected[n, step, unit // pool] += 1
    check(dataset)
    assert (dataset.classes, dataset.maximum, dataset.plane) == (20, maximum, (1, 1, channels))
    assert dataset.train.y.tolist() == [3, 0, 1]
    np.testing.assert_array_equal(dataset.train.x, np.minimum(expected, maximum))


def test_shd_bins_as_long_as_it_is_told(spoken: Path) -> None:
    x = load("shd", spoken, steps=2, duration_us=500_000).test.x
    assert np.argwhere(x).tolist() == [[0, 0, 0], [0, 1, 698], [0, 1, 699]]


def test_ssc_is_tested_on_the_file_it_is_told(spoken: Path) -> None:
    write_spoken(spoken / "ssc_valid.h5", labels=(34, 34, 34))
    assert load("ssc", spoken, steps=4).test.y.tolist() == [3, 0, 1]
    dataset = load("ssc", spoken, steps=4, test_on="valid")
    assert (dataset.test.y.tolist(), dataset.classes) == ([34] * 3, 35)
    refuse("ssc", spoken, "ssc: test_on", "test or valid", "'both'", test_on="both")


@pytest.mark.parametrize(
    ("labels", "rows", "words"),
    [
        ((3, 0, 20), SPOKEN, ["labels", "0..19", "20"]),
        ((3, 0, -1), SPOKEN, ["labels", "0..19", "-1"]),
        ((3.0, 0.0, 1.0), SPOKEN, ["labels", "integers", "float64"]),
        ((3, 0), SPOKEN, ["spikes", "2 labels", "3"]),
        (np.zeros(0, np.int64), [], ["labels", "0..19", "none"]),
        (((3,), (0,), (1,)), SPOKEN, ["labels", "one dimension", "(3, 1)"]),
        ((3,), [([0.1], [700])], ["spikes/units", "0..699", "row 0", "700"]),
        ((3,), [([0.1, 0.2], [7])], ["spikes/units", "row 0", "2", "1"]),
        ((3,), [([np.nan], [7])], ["spikes/times", "row 0", "nan"]),
        ((3,), [([-0.5], [7])], ["spikes/times", "row 0", "-0.5"]),
        ((3,), [([np.inf], [7])], ["spikes/times", "row 0", "inf"]),
    ],
)
def test_shd_refuses_malformed_recordings(spoken: Path, labels: object, rows: object, words: list[str]) -> None:
    write_spoken(spoken / "shd_test.h5", labels, rows)
    refuse("shd", spoken, f"shd_test.h5: {words[0]}: expected", *words)


def test_shd_refuses_what_is_no_hdf5_and_what_it_lacks(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoken / "shd_train.h5"
    whole = path.read_bytes()
    for content in (b"", b"no hdf5", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        refuse("shd", spoken, "shd_train.h5: file", "HDF5")
    with h5py.File(path, "w") as file:
        file["spikes/times"] = np.zeros(3)
    refuse("shd", spoken, "shd_train.h5: spikes/times", "numbers a row")
    with h5py.File(path, "w") as file:
        file.create_group("spikes/times")
    refuse("shd", spoken, "shd_train.h5: spikes/times", "found none")
    path.unlink()
    refuse("shd", spoken, "shd_train.h5: cannot be read")
    for option, value in (("steps", 0), ("pool", 701), ("maximum", 256), ("duration_us", 0)):
        refuse("shd", spoken, f"shd: {option}: expected an integer", str(value), **{option: value})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    refuse("shd", spoken, "h5py", "pip install 'quantal[hdf5]'")


@pytest.fixture
def gestures(tmp_path: Path) -> Path:
    """A recording to train on and one to test on, of two gestures each, 100 and 1,000 microseconds long."""
    packets = (
        packet(gesture_event(0, 0, 0, 99), gesture_event(127, 3, 1, 100), gesture_event(5, 6, 0, 199), capacity=5),
        packet(b"\xff" * 8, kind=2),
        packet(gesture_event(9, 9, 1, 200), gesture_event(9, 9, 1, 300, valid=0), gesture_event(1, 127, 1, 1199)),
        packet(gesture_event(4, 4, 0, 150), overflow=1),  # 2^31 microseconds later
    )
    for part, user in (("train", "user01_led"), ("test", "user29_natural")):
        (tmp_path / f"{user}.aedat").write_bytes(HEADER + b"".join(packets))
        (tmp_path / f"{user}_labels.csv").write_text(TABLE)
        (tmp_path / f"trials_to_{part}.txt").write_text(f"{user}.aedat\n\n")
    return tmp_path


def test_gestures_equal_their_definition(gestures: Path) -> None:
    dataset = load("dvs-gesture", gestures, steps=10, pool=1, duration_us=1000)
    check(dataset)
    assert (dataset.classes, dataset.maximum, dataset.plane) == (11, 1, (2, 128, 128))
    assert dataset.train.y.tolist() == dataset.test.y.tolist() == [0, 10]
    found = np.argwhere(dataset.train.x.reshape(2, 10, 2, 128, 128)).tolist()
    assert found == [[0, 0, 0, 6, 5], [0, 0, 1, 3, 127], [1, 0, 1, 9, 9], [1, 9, 1, 127, 1]]
    pooled = load("dvs-gesture", gestures, steps=1, pool=128, maximum=9, duration_us=1000)
    assert pooled.test.x.tolist() == [[[1, 1]], [[0, 2]]]
    assert load("dvs-gesture", gestures, steps=4, duration_us=400).test.x.sum(axis=(1, 2)).tolist() == [2, 1]


def test_gestures_take_the_high_bits_of_a_time_from_the_packet(gestures: Path) -> None:
    (gestures / "user29_natural_labels.csv").write_text(f"{TABLE}2,{2**31},{2**31 + 200}\n")
    dataset = load("dvs-gesture", gestures, steps=2, pool=128, duration_us=300)
    assert dataset.test.y.tolist() == [0, 10, 1]
    assert dataset.test.x[2].tolist() == [[0, 0], [1, 0]]


def test_gestures_as_tonic_ships_them(tmp_path: Path) -> None:
    for part in ("Train", "Test"):
        folder = tmp_path / f"ibmGesture{part}" / "user01_led"
        folder.mkdir(parents=True)
        for label in (0, 10):
            np.save(folder / f"{label}.npy", np.array([[label, 127, 1, 0.0], [3, 4, 0, 0.5]]))
    dataset = load("dvs-gesture", tmp_path, steps=2, pool=1, duration_us=1000)
    assert dataset.train.y.tolist() == [0, 10]
    found = np.argwhere(dataset.test.x.reshape(2, 2, 2, 128, 128)).tolist()
    assert found == [[0, 0, 1, 127, 0], [0, 1, 0, 4, 3], [1, 0, 1, 127, 10], [1, 1, 0, 4, 3]]
    path = tmp_path / "ibmGestureTest" / "user01_led" / "10.npy"
    for rows, words in (
        (np.zeros((2, 3)), ["events", "(events, 4)"]),
        (np.array(["a"]), ["events", "(events, 4)"]),
        (np.zeros((0, 4)), ["events", "at least one"]),
        (np.full((1, 4), np.nan), ["events", "finite"]),
        (np.full((1, 4), -1), ["events", "negative"]),
        (np.full((1, 4), 128), ["events", "0..127", "128"]),
        (np.full((1, 4), None), ["file", "intact"]),
    ):
        np.save(path, rows, allow_pickle=True)
        refuse("dvs-gesture", tmp_path, "10.npy", *words)
    path.rename(path.with_name("11.npy"))
    refuse("dvs-gesture", tmp_path, "11.npy: name", "0..10")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["header", "#!AER-DAT3.1"]),
        (HEADER.replace(b"3.1", b"2.0"), ["header", "#!AER-DAT3.1"]),
        (HEADER[:-2], ["header", "#!END-HEADER"]),
        (HEADER + packet(gesture_event(1, 1, 1, 1))[:27], [f"packet at byte {len(HEADER)}", "28 bytes", "27"]),
        (HEADER + packet(gesture_event(1, 1, 1, 1))[:-1], ["packet", "1 of 1 events of 8 bytes", "7 bytes are left"]),
        (HEADER + packet(b"1234", size=4), ["packet", "of 4 bytes"]),
        (HEADER + packet(b"12345678", capacity=0), ["packet", "1 of 0"]),
        (HEADER, ["user29_natural_labels.csv: line 2", "between 100 and 200"]),
        (HEADER + packet(gesture_event(128, 1, 1, 100), gesture_event(1, 1, 1, 200)), ["events", "0..127", "128"]),
    ],
)
def test_gestures_refuse_a_malformed_recording(gestures: Path, content: bytes, words: list[str]) -> None:
    (gestures / "user29_natural.aedat").write_bytes(content)
    refuse("dvs-gesture", gestures, "user29_natural", *words)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("user01_led_labels.csv", "class,start,end\n1,2,3\n", ["line 1", "startTime_usec"]),
        ("user01_led_labels.csv", "", ["line 1", "startTime_usec"]),
        ("user01_led_labels.csv", TABLE + "12,1,2\n", ["line 4", "1..11"]),
        ("user01_led_labels.csv", TABLE + "0,1,2\n", ["line 4", "1..11"]),
        ("user01_led_labels.csv", TABLE + "1,200,200\n", ["line 4", "later end"]),
        ("user01_led_labels.csv", TABLE + "1,2\n", ["line 4", "'1,2'"]),
        ("user01_led_labels.csv", "class,startTime_usec,endTime_usec\n", ["labels", "at least"]),
        ("trials_to_train.txt", "", ["file", "at least"]),
        ("trials_to_train.txt", "user02_led.aedat", ["line 1", "there"]),
        ("trials_to_train.txt", "../user01_led.aedat", ["line 1", "there"]),
    ],
)
def test_gestures_refuse_malformed_lists(gestures: Path, file: str, text: str, words: list[str]) -> None:
    (gestures / file).write_text(text)
    refuse("dvs-gesture", gestures, *words)
    (gestures / file).unlink()
    refuse("dvs-gesture", gestures, file, "cannot be read")


# --- qtdb ---


@pytest.fixture
def beats(tmp_path: Path) -> Callable[..., Path]:
    """Ten recordings of eight steps: the one of step t in class (n + t) mod 6, but for the last, which has none."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (10, 8, 4)).astype(np.int16)
    x[:, -1, 0] = -1
    y = np.eye(6, dtype=np.uint8)[np.add.outer(np.arange(10), np.arange(8)) % 6]
    y[:, -1] = 0
    arrays = {"x": x, "y": y, "t": np.tile(np.arange(8, dtype=np.uint16), (10, 1)), "max_i": np.full((10, 1), 8)}

    def save(name: str = "QTDB_train.mat", **changes: object) -> Path:
        savemat(tmp_path / name, {key: value for key, value in (arrays | changes).items() if value is not None})
        return tmp_path

    return save


def test_qtdb_has_a_label_a_step(beats: Callable[..., Path]) -> None:
    dataset = load("qtdb", beats(), steps=8)
    assert (dataset.classes, dataset.maximum, dataset.plane) == (6, 1, (4, 1, 1))
    assert (dataset.train.x.shape, dataset.test.x.shape, dataset.train.x.dtype) == ((8, 8, 4), (2, 8, 4), np.uint8)
    assert dataset.test.y.tolist() == [[4, 5, 0, 1, 2, 3, 4, -1], [3, 4, 5, 0, 1, 2, 3, -1]]
    assert (dataset.train.x[:, -1, 0] == 0).all()
    assert load("qtdb", beats() / "QTDB_train.mat", steps=3).train.y[0].tolist() == [0, 1, 2]
    folder = beats("QTDB_test.mat", x=np.ones((1, 9, 4)), y=np.ones((1, 9, 6)) * [0, 0, 1, 0, 0, 0])
    dataset = load("qtdb", folder, steps=8)
    assert (len(dataset.train.x), dataset.test.y.tolist()) == (10, [[2] * 8])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": None}, ["x", "found none"]),
        ({"y": None}, ["y", "found none"]),
        ({"x": np.zeros((10, 8, 3))}, ["x", "(samples, steps, 4)", "(10, 8, 3)"]),
        ({"y": np.zeros((10, 8))}, ["y", "(samples, steps, 6)", "(10, 8)"]),
        ({"y": np.zeros((9, 8, 6))}, ["y", "(10, 8)", "(9, 8)"]),
        ({"x": np.array("text")}, ["x", "numbers"]),
        ({"x": np.full((10, 8, 4), 2)}, ["x", "0 and 1"]),
        ({"x": np.full((10, 8, 4), np.nan)}, ["x", "0 and 1"]),
        ({"y": np.ones((10, 8, 6))}, ["y", "one class at most"]),
        ({"y": np.full((10, 8, 6), 0.5)}, ["y", "one class at most"]),
        ({"y": np.zeros((10, 8, 6))}, ["y", "some step"]),
        ({"x": np.zeros((4, 8, 4)), "y": np.ones((4, 8, 6)) * [1, 0, 0, 0, 0, 0]}, ["x", "five"]),
    ],
)
def test_qtdb_refuses_malformed_arrays(beats: Callable[..., Path], changes: dict, words: list[str]) -> None:
    refuse("qtdb", beats(**changes), f"QTDB_train.mat: {words[0]}: expected", *words, steps=8)


def test_qtdb_refuses_what_is_no_mat(beats: Callable[..., Path]) -> None:
    folder = beats()
    path = folder / "QTDB_train.mat"
    refuse("qtdb", folder, "x: expected 9 steps", "got 8", steps=9)
    whole = path.read_bytes()
    for content in (b"", b"no mat", whole[:200], whole[:700]):
        path.write_bytes(content)
        refuse("qtdb", folder, "QTDB_train.mat: ", "expected", steps=8)
    path.unlink()
    refuse("qtdb", folder, "data", "QTDB_train.mat")
