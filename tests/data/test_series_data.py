"""The loader of time series: .ts files as the UEA and UCR archives have them, whole and spoilt."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantal.qat.data.registry import load
from support.datasets import check, refuse

HEADER = "#Of a comment\n@problemName Two\n@timeStamps false\n@univariate false\n@classLabel true up down\n@data\n"
TRAIN = "0,1,2.5:10,10,10:up\n4,3:10,11:down\n#no series\n\n-1,0:9.5,12:up\n"
TEST = "9,-9,1:10,10,10:down\n2:12:up\n"
TARGETS = "@problemName Two\n@timestamps false\n@targetlabel true\n@data\n"


@pytest.fixture
def two(tmp_path: Path) -> Callable[..., Path]:
    def save(train: str = HEADER + TRAIN, test: str = HEADER + TEST) -> Path:
        folder = tmp_path / "Two"
        folder.mkdir(exist_ok=True)
        (folder / "Two_TRAIN.ts").write_text(train)
        (folder / "Two_TEST.ts").write_text(test)
        return folder

    return save


def test_series_become_integers_of_the_training_range(two: Callable[..., Path]) -> None:
    dataset = load("timeseries", two(), maximum=10)
    check(dataset)
    assert (dataset.classes, dataset.maximum, dataset.plane, dataset.train.x.dtype) == (2, 10, None, np.uint8)
    # The first dimension is from -1 to 4, the second from 9.5 to 12: 2 and 4 units a value, rounded half up.
    assert dataset.train.x.transpose(0, 2, 1).tolist() == [
        [[2, 4, 7], [2, 2, 2]], [[10, 8, 8], [2, 6, 6]], [[0, 2, 2], [0, 10, 10]],
    ]  # fmt: skip
    assert dataset.test.x.transpose(0, 2, 1).tolist() == [[[10, 0, 4], [2, 2, 2]], [[6, 6, 6], [10, 10, 10]]]
    assert (dataset.train.y.tolist(), dataset.test.y.tolist()) == ([0, 1, 0], [1, 0])
    assert load("timeseries", two(), maximum=1000).train.x.dtype == np.uint16


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_series_are_cropped_or_go_on_with_their_last_value(two: Callable[..., Path], steps: int) -> None:
    whole, x = load("timeseries", two()).train.x, load("timeseries", two(), steps=steps).train.x
    np.testing.assert_array_equal(x, whole[:, np.minimum(np.arange(steps), 2)])


def test_a_dimension_that_never_changes_is_zero(two: Callable[..., Path]) -> None:
    dataset = load("timeseries", two(HEADER + "3,3:1,2:up\n3,3:1,3:down\n", HEADER + "4,3:1,1:up\n"))
    assert dataset.train.x[..., 0].tolist() == [[0, 0], [0, 0]]


def test_series_may_have_real_targets_and_another_name(two: Callable[..., Path]) -> None:
    folder = two(TARGETS + "1,2:0.5\n3,4:-1e3\n", TARGETS + "2,2: 7 \n")
    dataset = load("timeseries", folder)
    assert (dataset.classes, dataset.train.y.dtype) == (1, np.float64)
    assert (dataset.train.y.tolist(), dataset.test.y.tolist()) == ([[0.5], [-1000.0]], [[7.0]])
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("Two", "Other")))
    refuse("timeseries", folder, "Two_TRAIN.ts: cannot be read")
    assert load("timeseries", folder, problem="Other").test.y.tolist() == [[7.0]]
    refuse("timeseries", folder, "timeseries: problem", "'../Other'", problem="../Other")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["header", "@data"]),
        (HEADER.replace("@data\n", ""), ["header", "@data"]),
        (HEADER.replace("@classLabel", "#classLabel") + TRAIN, ["header", "@classLabel", "@targetLabel"]),
        (HEADER.replace("up", "upper") + TRAIN.replace("up", "upper"), ["Two_TEST.ts: header", "Two_TRAIN.ts"]),
        (HEADER.replace("true up", "false up") + TRAIN, ["line 5", "@classLabel true"]),
        (HEADER.replace("true up", "true down") + TRAIN, ["line 5", "@classLabel true"]),
        (HEADER.replace("true up down", "true") + TRAIN, ["line 5", "@classLabel true"]),
        (HEADER.replace("@timeStamps false", "@timeStamps true") + TRAIN, ["line 3", "@timeStamps false"]),
        (TARGETS.replace("true", "false") + TRAIN, ["line 3", "@targetLabel true"]),
        (TARGETS + "1,2:up\n", ["line 5", "real target", "'up'"]),
        (TARGETS + "1,2:nan\n", ["line 5", "real target", "'nan'"]),
        (HEADER, ["@data", "at least"]),
        (HEADER + "0,?,2:1,1,1:up\n", ["line 7", "missing"]),
        (HEADER + "0,x,2:1,1,1:up\n", ["line 7", "not a number"]),
        (HEADER + "0,,2:1,1,1:up\n", ["line 7", "not a number"]),
        (HEADER + "0,nan:1,1:up\n", ["line 7", "finite"]),
        (HEADER + "0,1:1,1,1:up\n", ["line 7", "same length"]),
        (HEADER + "up\n", ["line 7", "dimensions"]),
        (HEADER + "0,1:1,1:sideways\n", ["line 7", "class of the header", "'sideways'"]),
        (HEADER + TRAIN + "0,1:up\n", ["line 12", "2 dimensions", "got 1"]),
        (HEADER + "1,2:up\n2,1:down\n", ["Two_TEST.ts: data", "1 dimensions", "got 2"]),
    ],
)
def test_series_that_are_malformed_are_refused(two: Callable[..., Path], text: str, words: list[str]) -> None:
    refuse("timeseries", two(train=text), "Two_T", *words)


def test_series_refuse_options_out_of_range(two: Callable[..., Path]) -> None:
    for option, value in (("steps", 0), ("maximum", 65536)):
        refuse("timeseries", two(), f"timeseries: {option}: expected an integer", str(value), **{option: value})
