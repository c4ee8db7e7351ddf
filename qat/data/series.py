"""The loader of time series in the .ts format of the UEA and UCR archives."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantal.export.base.errors import shown
from quantal.qat.data.common import Dataset, Split, bad, check_room, lines
from quantal.qat.data.encoding import LIMIT, whole


@dataclass(frozen=True)
class _Series:
    """A .ts file: the classes of its header, none where it has real targets, and each series with what it has."""

    path: Path
    classes: tuple[str, ...]
    series: list[np.ndarray]
    labels: list[str]


def _header(path: Path, lines: list[str]) -> tuple[int, tuple[str, ...]]:
    """Where the data begin, and the classes, none where there are real targets."""
    classes: tuple[str, ...] | None = None
    for number, line in enumerate(lines):
        word, *rest = line.split() or [""]
        match word.lower():
            case "@data":
                if classes is None:
                    raise bad(path, "header", "@classLabel true and the classes, or @targetLabel true")
                return number + 1, classes
            case "@timestamps" if rest != ["false"]:
                raise bad(path, f"line {number + 1}", f"@timeStamps false, got {shown(line)}")
            case "@classlabel":
                if rest[:1] != ["true"] or len(rest) < 3 or len(set(rest)) < len(rest):
                    raise bad(path, f"line {number + 1}", f"@classLabel true and its classes, got {shown(line)}")
                classes = tuple(rest[1:])
            case "@targetlabel":
                if rest != ["true"]:
                    raise bad(path, f"line {number + 1}", f"@targetLabel true, got {shown(line)}")
                classes = ()
    raise bad(path, "header", "@data, found none")


def _file(path: Path) -> _Series:
    """The series of a file, each (steps, dimensions). A line has its dimensions and then its label, between colons."""
    rows_of_text = lines(path)
    start, classes = _header(path, [line.strip() for line in rows_of_text])
    known = {name: number for number, name in enumerate(classes)}
    series: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(rows_of_text[start:], start + 1):
        if not line.strip() or line.startswith("#"):
            continue
        *dimensions, label = line.strip().split(":")
        try:
            rows = [np.array(dimension.split(","), np.float64) for dimension in dimensions]
        except ValueError:
            what = "a value is missing (?)" if "?" in line else "not a number"
            raise bad(path, f"line {number}", f"numbers, each there; {what}") from None
        if not rows or len({len(row) for row in rows}) > 1 or not all(np.isfinite(row).all() for row in rows):
            raise bad(path, f"line {number}", "dimensions of the same length, all numbers finite")
        if series and len(rows) != series[0].shape[1]:
            raise bad(path, f"line {number}", f"{series[0].shape[1]} dimensions, got {len(rows)}")
        series.append(np.stack(rows, axis=1))
        labels.append(label.strip())
        if known and label.strip() not in known:
            raise bad(path, f"line {number}", f"a class of the header, got {shown(label.strip())}")
        if not classes and not _finite(label):
            raise bad(path, f"line {number}", f"a real target, got {shown(label.strip())}")
    if not series:
        raise bad(path, "@data", "a series at least")
    return _Series(path, classes, series, labels)


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def timeseries(
    data: Path | None, *, steps: int | None = None, maximum: int = 255, problem: str | None = None
) -> Dataset:
    """A folder with PROBLEM_TRAIN.ts and PROBLEM_TEST.ts, the problem being the folder's name unless it is given.

    Sequences (N, steps, dimensions) of 0..maximum: 0 is a dimension's smallest value in the training file and maximum
    its largest, rounded half up; what the test file has beyond is cut off. Steps are as many as the longest series of
    the training file has, unless given: a series is cropped, or goes on with its last value. Missing ones are refused.
    Where the header has @classLabel, its classes; with @targetLabel real targets (N, 1).
    """
    if steps is not None:
        whole("timeseries", "steps", steps, 1, LIMIT)
    whole("timeseries", "maximum", maximum, 1, LIMIT)
    if data is None or not data.is_dir():
        raise bad(data or "timeseries", "data", "a folder with PROBLEM_TRAIN.ts and PROBLEM_TEST.ts")
    name = data.resolve().name if problem is None else problem
    if not isinstance(name, str) or Path(name).name != name:
        raise bad("timeseries", "problem", f"a name, got {shown(name)}")
    train, test = (_file(data / f"{name}_{part}.ts") for part in ("TRAIN", "TEST"))
    if test.classes != train.classes:
        raise bad(test.path, "header", f"the classes of {train.path.name}")
    if test.series[0].shape[1] != train.series[0].shape[1]:
        raise bad(test.path, "data", f"{train.series[0].shape[1]} dimensions, got {test.series[0].shape[1]}")

    least = np.min([series.min(axis=0) for series in train.series], axis=0)
    with np.errstate(over="ignore"):
        span = np.max([series.max(axis=0) for series in train.series], axis=0) - least
    if not np.isfinite(span).all():
        wide = int(np.argmin(np.isfinite(span)))
        raise bad(train.path, "@data", f"values that span less than 1.8e308, in dimension {wide} too: scale them")
    span[span == 0] = 1
    longest = max(map(len, train.series)) if steps is None else steps

    def integers(part: _Series) -> Split:
        check_room(part.path, len(part.series), longest, len(least), each=4 * 8)
        each = [series[np.minimum(np.arange(longest), len(series) - 1)] for series in part.series]
        with np.errstate(over="ignore"):  # far outside is outside
            x = np.floor(np.clip((np.stack(each) - least) / span, 0, 1) * maximum + 0.5)
        if part.classes:
            number = {name: number for number, name in enumerate(part.classes)}
            y: np.ndarray = np.array([number[label] for label in part.labels], np.int64)
        else:
            y = np.array(part.labels, np.float64)[:, None]
        return Split(x.astype(np.uint8 if maximum < 256 else np.uint16), y)

    return Dataset(integers(train), integers(test), len(train.classes) or 1, maximum)
