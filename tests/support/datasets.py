"""What every data set promises, and how it is refused."""

from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.errors import BadInput
from quantal.qat.data.registry import Dataset, load


def refuse(task: str, data: Path | None, *words: str, **options: object) -> str:
    """The one line with which load() refuses, holding all the words."""
    with pytest.raises(BadInput) as error:
        load(task, data, **options)
    line = str(error.value)
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line
    return line


def load_or_refuse(task: str, data: Path, *words: str) -> None:
    """A spoilt byte may go unnoticed, but nothing other than BadInput may come of it."""
    try:
        load(task, data)
    except BadInput:
        refuse(task, data, *words)


def check(dataset: Dataset) -> None:
    """What every dataset promises."""
    for split in (dataset.train, dataset.test):
        assert split.x.dtype.kind == "u"
        assert split.y.dtype == np.int64
        assert split.y.shape == (len(split.x),)
        assert len(split.x)
        assert split.x.max() <= dataset.maximum
        assert 0 <= split.y.min() <= split.y.max() < dataset.classes
        assert split.x.flags.writeable
    assert dataset.train.x.shape[1:] == dataset.test.x.shape[1:]
