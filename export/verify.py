"""Runs executors and compares every value with the reference, batch by batch."""

from collections.abc import Callable, Iterable

import numpy as np

from export.build import Build
from export.errors import ExecutorError
from export.executors import EXECUTORS
from export.fixed import Ints
from export.vectors import Comparison

Batches = Iterable[tuple[Ints, dict[str, np.ndarray]]]


def verify(
    build: Build, executor: str, batches: Batches, advance: Callable[[int], None]
) -> tuple[Comparison, str | None]:
    """The comparison of one executor with the reference, and the line that says why it stopped, if it did.

    `batches` gives (input, reference trace), samples first; `advance` is told how many samples are done.
    """
    comparison = Comparison(executor)
    try:
        with EXECUTORS[executor](build) as run:
            for x, reference in batches:
                comparison.add(reference, run(x))
                advance(len(x))
    except ExecutorError as error:
        return comparison, str(error)
    return comparison, None


def batched(x: Ints, trace: dict[str, np.ndarray], size: int) -> Batches:
    """(x, trace) in pieces of `size` samples."""
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield x[part], {name: values[part] for name, values in trace.items()}
