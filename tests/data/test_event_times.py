"""When events come: none overflows, none is dropped in silence, and units that cannot be meant are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantal.export.base.errors import BadInput
from quantal.qat.config import config_file
from quantal.qat.data.registry import load
from quantal.qat.data.times import Clock
from support.commands import succeed
from support.datasets import refuse
from support.messages import one_line
from support.recordings import HEADER, TABLE, event, gesture_event, packet, write_labels, write_spoken

WHERE = Path("recordings")


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.integers(1, 65535), st.integers(1, 2**31))
def test_steps_are_those_of_python_integers_however_late_events_are(times: list[int], steps: int, span: int) -> None:
    clock = Clock(WHERE, steps, span)
    kept, step = clock.steps_of(np.array(times))
    assert step.tolist() == [time * steps // span for time in times if time < span]
    assert kept.tolist() == [time < span for time in times]
    assert (clock.events, clock.dropped) == (len(times), sum(time >= span for time in times))


@given(st.lists(st.floats(0, 1.7e308), min_size=1, max_size=20), st.sampled_from([1, 1000, 1_000_000]))
def test_real_times_have_steps_of_the_sequence(times: list[float], us: int) -> None:
    kept, step = Clock(WHERE, 61, 6_000_000, us=us).steps_of(np.array(times))
    assert ((step >= 0) & (step < 61)).all()
    assert kept.tolist() == [time * us < 6_000_000 for time in times]


@pytest.mark.parametrize(("late", "said"), [(0, None), (1, "1.0 %"), (95, "95.0 %"), (96, "refused")])
def test_the_share_that_is_dropped_is_said_up_to_a_bound(late: int, said: str | None) -> None:
    clock = Clock(WHERE, 10, 1000)
    for _ in range(2):  # of several recordings together
        clock.steps_of(np.array([500] * (100 - late) + [1000] * late))
    if said == "refused":
        with pytest.raises(BadInput) as error:
            clock.notes()
        one_line(error, "recordings: times", "96.0 % of the events", "duration_us = 1000", "last at 1000 microseconds")
        return
    wanted = f"recordings: {said} of the events come after duration_us = 1000, and are dropped"
    assert clock.notes() == (() if said is None else (wanted,))


def test_events_that_all_come_in_the_first_moment_are_refused() -> None:
    for last, fine in ((9, False), (10, True)):
        clock = Clock(WHERE, 10, 1000)
        clock.steps_of(np.array([0, 1, last]))
        if fine:
            assert clock.notes() == ()
            continue
        with pytest.raises(BadInput) as error:
            clock.notes()
        one_line(error, "recordings: times", "microseconds over duration_us = 1000", "comes at 9 microseconds")
    assert Clock(WHERE, 10, 1000).notes() == ()  # of no events at all, nothing


MILLISECONDS = np.linspace(0, 5900, 300)


def converted(folder: Path, times: np.ndarray) -> Path:
    """Gestures as tonic ships them."""
    rng = np.random.default_rng(0)
    for part in ("Train", "Test"):
        for label in range(2):
            where = folder / f"ibmGesture{part}" / "user"
            where.mkdir(parents=True, exist_ok=True)
            columns = rng.integers(0, 128, (2, len(times))), rng.integers(0, 2, len(times)), times
            np.save(where / f"{label}.npy", np.column_stack([*columns[0], *columns[1:]]))
    return folder


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (MILLISECONDS * 1000 + 1.665e15, ["milliseconds", "100.0 % of the events come after", "1.665e+15"]),
        ((1_665_000_000_000_000 + np.arange(300) * 20_000), ["milliseconds", "100.0 %"]),
        (MILLISECONDS * 1000, ["milliseconds", "99.7 %"]),
        (MILLISECONDS / 1000, ["milliseconds over", "5.9 milliseconds"]),
        (MILLISECONDS * 1e11, ["99.7 %", "the last at"]),
    ],
)
def test_gestures_in_another_unit_or_since_1970_are_refused(
    tmp_path: Path, times: np.ndarray, words: list[str]
) -> None:
    for steps in (60, 61):
        refuse("dvs-gesture", converted(tmp_path, times), "ibmGestureTrain: times", *words, steps=steps)


def test_gestures_in_milliseconds_are_taken(tmp_path: Path) -> None:
    assert load("dvs-gesture", converted(tmp_path, MILLISECONDS)).notes == ()
    found = load("dvs-gesture", tmp_path, duration_us=2_950_000)
    assert [note.split(": ")[1] for note in found.notes] == [
        "50.0 % of the events come after duration_us = 2950000, and are dropped"
    ] * 2


def test_a_gesture_that_ends_never_overflows_nothing(tmp_path: Path) -> None:
    """Times of 62 bits, and an end of 18 digits: 61 steps times that are more than 64 bits."""
    packets = (
        packet(*(gesture_event(0, 0, 0, 99 + 10 * k) for k in range(9))),
        packet(gesture_event(1, 2, 1, 5), overflow=2**31 - 1),
    )
    for part in ("train", "test"):
        (tmp_path / f"{part}.aedat").write_bytes(HEADER + b"".join(packets))
        (tmp_path / f"{part}_labels.csv").write_text(f"{TABLE.splitlines()[0]}\n1,99,{10**18 * 9 // 10}\n")
        (tmp_path / f"trials_to_{part}.txt").write_text(f"{part}.aedat\n")
    dataset = load("dvs-gesture", tmp_path, steps=61, pool=128, duration_us=1000)
    assert dataset.train.x.sum() == len({10 * k * 61 // 1000 for k in range(9)})
    assert dataset.notes == ()


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([[100.0, 500.0, 900.0]], ["seconds", "100.0 %", "the last at 900 seconds"]),
        ([[1e-4, 5e-4, 1e-3]], ["seconds over duration_us = 1000000"]),
    ],
)
@pytest.mark.parametrize(("task", "test"), [("shd", "shd_test"), ("ssc", "ssc_test")])
def test_spoken_words_in_another_unit_are_refused(
    tmp_path: Path, times: list[list[float]], words: list[str], task: str, test: str
) -> None:
    pytest.importorskip("h5py")
    good, units = [[0.1, 0.5, 0.9]], [3, 4, 5]
    for name, rows in ((f"{task}_train", good), (test, times)):
        write_spoken(tmp_path / f"{name}.h5", [0], [(row, units) for row in rows])
    refuse(task, tmp_path, f"{test}.h5: times", *words)


def recordings(folder: Path, *times: int) -> Path:
    for sample in range(1, 6):
        (folder / f"{sample}.bs2").write_bytes(b"".join(event(1, 2, 0, time) for time in times))
    write_labels(folder, dict.fromkeys(range(1, 6), 0))
    return folder


def test_nmnist_says_what_it_drops_and_refuses_other_units(tmp_path: Path) -> None:
    assert load("nmnist", recordings(tmp_path, 0, 299_999)).notes == ()
    (note,) = load("nmnist", recordings(tmp_path, 0, 299_999, 300_000, 8_000_000)).notes
    assert note == f"{tmp_path}: 50.0 % of the events come after duration_us = 300000, and are dropped"
    refuse("nmnist", recordings(tmp_path, 300_000, 8_000_000), "times", "100.0 %", "8e+06 microseconds")
    refuse("nmnist", recordings(tmp_path, 0, 300), "times", "300 microseconds")


NET = """
[task]
name = "nmnist"
pool = 17
[encoder]
steps = 5
[[layer]]
name = "out"
size = 10
neuron = "li"
[training]
epochs = 0
"""


def test_training_says_what_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    recordings(folder, 0, 299_999, 300_000, 8_000_000)
    (tmp_path / "net.toml").write_text(NET)
    monkeypatch.chdir(tmp_path)
    said = succeed("train", "--network", "net.toml", "--data", "data", "--out", "run").out
    assert "data: 50.0 % of the events come after duration_us = 300000, and are dropped\n" in said


@pytest.mark.parametrize(("delays", "fine"), [("[0, 4]", True), ("[0, 5]", False), ("[70]", False)])
def test_delays_longer_than_a_sample_are_refused(delays: str, fine: bool) -> None:
    text = NET.replace("size = 10", f"size = 10\ndelays = {delays}")
    if fine:
        config_file.loads(text, "net")
        return
    with pytest.raises(BadInput) as error:
        config_file.loads(text, "net")
    one_line(error, "net", "layer[0]: delays: expected fewer than the 5 steps", delays[-3:-1].strip(" ,"))
