"""Runs executors and compares every value with the reference, batch by batch."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.fixed import Ints
from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.export.run import EXECUTORS
from quantal.export.run.bounds import GENEROUS, Bounds
from quantal.export.run.runner import Runner
from quantal.export.verify.probes import probe
from quantal.export.verify.vectors import Comparison, Mismatch

BATCH = 250
"""Samples that are compared at a time."""
Batches = Iterable[tuple[Ints, dict[str, np.ndarray]]]
Failure = BadInput | ExecutorError | OSError
"""Why an executor cannot run here, or did not to its end."""


@dataclass(frozen=True)
class Reference:
    """What executors are compared with. batches: gives (input, trace), so many samples at a time, anew at each call."""

    samples: int
    batches: Callable[[int], Batches]


def stored(build: Build, samples: int | None = None) -> Reference:
    """The golden vectors of the build, or the first of them. Raises BadInput where there are not that many."""
    x, trace = build.vectors()
    if samples is not None:
        if not 1 <= samples <= len(x):
            raise BadInput(f"--samples: {build.path} holds vectors of {len(x)} samples, not {samples}; name the run")
        x, trace = x[:samples], {name: values[:samples] for name, values in trace.items()}
    return Reference(len(x), lambda size: batched(x, trace, size))


def verify(
    build: Build,
    executor: str,
    batches: Batches,
    advance: Callable[[int], None],
    bounds: Bounds = GENEROUS,
) -> tuple[Comparison, Failure | None]:
    """The comparison of one executor with the reference, and why it stopped, if it did.

    `batches` gives (input, reference trace), samples first; `advance` is told how many samples are done. An error of
    theirs is raised: it is no executor's.
    """
    comparison = Comparison(executor)
    with ExitStack() as stack:
        try:
            run = stack.enter_context(EXECUTORS[executor](build, bounds))
        except (BadInput, ExecutorError, OSError) as error:
            return comparison, error
        for x, reference in batches:
            try:
                _compare(comparison, build, run, x, reference)
            except (BadInput, ExecutorError, OSError) as error:
                return comparison, error
            advance(len(x))
    return comparison, None


def _compare(comparison: Comparison, build: Build, run: Runner, x: Ints, reference: dict[str, np.ndarray]) -> None:
    """Compares a batch; after the first, where that is equal, what else a program may call."""
    before, new = comparison.samples, comparison.first is None
    comparison.add(reference, run(x))
    if comparison.first is not None and new:
        comparison.first = _explained(comparison.first, build, x[comparison.first.sample - before])
    if before == 0 and comparison.good and run.ask is not None:
        comparison.add_answers(*run.ask(probe(build.network, x, reference, build.macros)))


def _explained(place: Mismatch, build: Build, sample: Ints) -> Mismatch:
    """The mismatch, with the labelled values of its neuron as network.json gives them on that sample."""
    shown = sample[: place.step + 1].astype(np.int64)
    return replace(place, values=interpret.labelled(build.network, shown, place.layer, place.neuron))


def batched(x: Ints, trace: dict[str, np.ndarray], size: int) -> Batches:
    """(x, trace) in pieces of `size` samples."""
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield x[part], {name: values[part] for name, values in trace.items()}
