"""Event augmentation: equal to its definition, of the training split and the seed alone, refused where senseless."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from quantal.export.base.errors import BadInput
from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Augmentation, Bptt
from quantal.qat.data.augmentation import augmented, check
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.training.epochs import train_until
from quantal.qat.training.run import Run
from quantal.qat.training.start import new_run
from support.layers import a_layer, replace
from support.messages import one_line

SILENT = Progress(disable=True)
STEPS, PLANE, MAXIMUM = 10, (2, 5, 7), 3
CHANNELS = 2 * 5 * 7


def configured(seed: int = 0, **how: Any) -> Config:
    layers = a_layer("hidden", 8, gain=2.0), a_layer("readout", 3, neuron="li", state_range=16.0)
    training = Bptt(seed=seed, epochs=2, batch=8)
    task, encoder = Task(name="npz"), Direct(steps=STEPS)
    return Config(task=task, encoder=encoder, layers=layers, training=training, augmentation=Augmentation(**how))


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 4, (30, STEPS, CHANNELS)) * (rng.random((30, STEPS, CHANNELS)) < 0.2)).astype(np.uint8)
    y = rng.integers(0, 3, 30)
    y[:3] = 0, 1, 2
    return Dataset(Split(x[:20], y[:20]), Split(x[20:], y[20:]), 3, MAXIMUM, PLANE)


EVERY = np.arange(20)


def taken(data: Dataset, epoch: int = 0, chosen: np.ndarray = EVERY, seed: int = 0, **how: Any) -> Split:
    return augmented(data, configured(seed, **how), epoch).take(chosen)


def moved(x: np.ndarray, by: tuple[int, ...]) -> np.ndarray:
    """x moved along each of its axes, zeros coming in."""
    for axis, steps in enumerate(by):
        x = np.roll(x, steps, axis)
        gone = slice(None, steps) if steps >= 0 else slice(steps, None)
        x[(slice(None),) * axis + (gone if steps else slice(0, 0),)] = 0
    return x


def test_a_shift_moves_each_sample_as_a_whole(data: Dataset) -> None:
    found = set()
    for epoch in range(4):
        x = taken(data, epoch, shift_space=2, shift_time=1).x
        for before, after in zip(data.train.x, x, strict=True):
            planes, wanted = before.reshape(STEPS, *PLANE), after.reshape(STEPS, *PLANE)
            by = [
                (t, 0, dy, dx)
                for t in (-1, 0, 1)
                for dy in range(-2, 3)
                for dx in range(-2, 3)
                if (moved(planes, (t, 0, dy, dx)) == wanted).all()
            ]
            assert len(by) == 1
            found.add(by[0])
    assert {by[0] for by in found} == {-1, 0, 1}
    assert {by[2] for by in found} == {by[3] for by in found} == {-2, -1, 0, 1, 2}
    assert len({(by[2], by[3]) for by in found}) > 5


def test_a_flat_plane_is_moved_along_its_length_alone(data: Dataset) -> None:
    flat = replace(data, plane=(1, 1, CHANNELS))
    sums = taken(flat, shift_space=1).x.sum(axis=(1, 2)).astype(int)
    edges = data.train.x[:, :, [0, -1]].astype(int).sum(axis=1)
    before = data.train.x.sum(axis=(1, 2)).astype(int)
    assert all(lost in (0, *edge) for lost, edge in zip(before - sums, edges, strict=True))


def test_jitter_moves_each_event_by_itself(data: Dataset) -> None:
    one = np.zeros((20, STEPS, CHANNELS), np.uint8)
    one[:, 5, 3], one[:, 5, 4] = 3, 1
    x = taken(replace(data, train=Split(one, data.train.y)), jitter=2).x
    assert x[:, :3].sum() == x[:, 8:].sum() == 0
    assert set(np.flatnonzero(x.sum(axis=(0, 2)))) == {3, 4, 5, 6, 7}
    assert (x[..., 3].sum(axis=1) == 3).all()
    assert (x[..., 4].sum(axis=1) == 1).all()
    assert ((x[..., 3] > 0).sum(axis=1) > 1).any()


def test_counts_stop_at_the_maximum(data: Dataset) -> None:
    full = Split(np.full_like(data.train.x, MAXIMUM), data.train.y)
    x = taken(replace(data, train=full), jitter=3).x
    assert x.max() == MAXIMUM
    assert x.dtype == data.train.x.dtype


def test_drop_leaves_out_that_share_of_the_events(data: Dataset) -> None:
    x, before = taken(data, drop=0.25).x, data.train.x
    assert (x <= before).all()
    events = int(before.sum())
    assert abs(int(x.sum()) / events - 0.75) < 4 * (0.25 * 0.75 / events) ** 0.5
    assert not taken(data, drop=1.0).x.any()


def test_labels_of_steps_move_along(data: Dataset) -> None:
    y = np.arange(20 * STEPS).reshape(20, STEPS)
    x = np.zeros((20, STEPS, CHANNELS), np.uint8)
    x[:, 4, 0] = 1
    got = taken(replace(data, train=Split(x, y)), shift_time=3)
    at = got.x[:, :, 0].argmax(axis=1)
    assert {1, 7} <= set(at) <= set(range(1, 8))
    for n, step in enumerate(at):
        expected = [y[n, t - step + 4] if 0 <= t - step + 4 < STEPS else -1 for t in range(STEPS)]
        assert got.y[n].tolist() == expected
    real = np.ones((20, STEPS)) * 0.5
    np.testing.assert_array_equal(taken(replace(data, train=Split(x, real)), shift_time=3).y, real)


def test_labels_that_a_shift_has_moved_out_are_none_that_a_network_misses(data: Dataset, tmp_path: Path) -> None:
    """A silent network says class 0 at every step, which here is right at every step that has a label."""
    labels = np.zeros((20, STEPS), np.int64)
    config = configured(shift_time=STEPS - 1)
    config = replace(config, training=replace(config.training, loss="steps", rate=0.0, epochs=1))
    run = new_run(
        tmp_path / "run", config, replace(data, train=Split(data.train.x, labels), test=Split(data.test.x, labels[:10]))
    )
    for parameter in run.network.stack[-1].matrices:
        parameter.data.zero_()
    train_until(run, replace(data, train=Split(data.train.x, labels)), 1, SILENT)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["train_accuracy"] == 1.0


ALL = {"shift_space": 1, "shift_time": 2, "jitter": 1, "drop": 0.1}


def test_a_sample_depends_on_seed_epoch_and_place_alone(data: Dataset) -> None:
    x = taken(data, **ALL).x
    np.testing.assert_array_equal(x, taken(data, **ALL).x)
    np.testing.assert_array_equal(x[[7, 3]], taken(data, chosen=np.array([7, 3]), **ALL).x)
    for other in (taken(data, epoch=1, **ALL), taken(data, seed=1, **ALL)):
        assert (other.x != x).any(axis=(1, 2)).all()
    twice = replace(data, train=Split(np.repeat(data.train.x[:1], 20, axis=0), data.train.y))
    assert len(np.unique(taken(twice, **ALL).x, axis=0)) == 20


def test_the_data_set_itself_is_left_as_it_is(data: Dataset) -> None:
    before = data.train.x.copy()
    assert (taken(data, **ALL).x != before).any()
    np.testing.assert_array_equal(data.train.x, before)
    assert augmented(data, configured(), 0) is data.train


def test_any_split_over_sittings_gives_the_same_bytes(data: Dataset, tmp_path: Path) -> None:
    whole = new_run(tmp_path / "whole", configured(**ALL), data)
    train_until(whole, data, 2, SILENT)
    train_until(new_run(tmp_path / "parts", configured(**ALL), data), data, 1, SILENT)
    train_until(Run.open(tmp_path / "parts"), data, 2, SILENT)
    plain = new_run(tmp_path / "plain", configured(), data)
    train_until(plain, data, 2, SILENT)
    written = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "parts", "plain")]
    assert written[0] == written[1] != written[2]
    np.testing.assert_array_equal(whole.samples().x, data.test.x)
    assert Run.open(tmp_path / "whole").config.augmentation == Augmentation(**ALL)


@pytest.mark.parametrize(
    ("how", "changes", "words"),
    [
        ({"drop": 0.1}, {"plane": None}, ["task", "npz", "whose values are none"]),
        ({"shift_space": 7}, {}, ["shift_space", "7", "got 7"]),
        ({"shift_space": 1}, {"plane": (CHANNELS, 1, 1)}, ["shift_space", "no place"]),
        ({"shift_time": STEPS}, {}, ["shift_time", "10"]),
        ({"jitter": STEPS}, {}, ["jitter", "10"]),
    ],
)
def test_what_makes_no_sense_is_refused(
    data: Dataset, tmp_path: Path, how: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(BadInput) as error:
        new_run(tmp_path / "run", configured(**how), replace(data, **changes))
    one_line(error, f"augmentation: {words[0]}", *words)
    assert not (tmp_path / "run").exists()
    check(Augmentation(), replace(data, plane=None), "npz")


def test_a_field_out_of_range_is_refused() -> None:
    text = config_file.dumps(configured(**ALL))
    assert config_file.loads(text, "net") == configured(**ALL)
    for old, new, words in (
        ("drop = 0.1", "drop = 1.5", ("drop", "[0, 1]")),
        ("jitter = 1", "jitter = -1", ("jitter", "[0, 65535]")),
        ("jitter = 1", "flip = 1", ("flip", "not a field")),
    ):
        with pytest.raises(BadInput) as error:
            config_file.loads(text.replace(old, new), "net")
        one_line(error, "net:", ": augmentation: ", *words)
