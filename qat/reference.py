"""Torch's hard forward as the reference: written into a build, or run again for one."""

from pathlib import Path

import numpy as np

from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.fixed import Ints
from quantal.export.base.names import check_network
from quantal.export.build import Build, write_build
from quantal.export.network_file import digest
from quantal.export.run.verify import Batches, Reference
from quantal.export.verify.vectors import record_sizes
from quantal.qat.data.registry import Split
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.trace import hard_trace
from quantal.qat.training.batches import batches_of
from quantal.qat.training.run import Run, load_data


def export_run(run: Run, path: Path, name: str | None = None) -> None:
    """Writes the build of `run` in the folder `path`, under the C name `name`, the task's by default.

    The golden vectors are what torch's hard forward does on the test samples that the run keeps.
    """
    name = check_network(run.config.task.name.replace("-", "_") if name is None else name, "name")
    x = run.samples().x
    lowered = lower(run.network, name)
    write_build(path, lowered, x, hard_trace(run.network, x, exact_dtype(lowered)))


def forward(run: Run, x: Ints) -> dict[str, np.ndarray]:
    """The hard forward on x (samples, steps, inputs): every record and "output", each (samples, steps, neurons)."""
    return hard_trace(run.network, x, run.exact_dtype())


def of_run(build: Build, path: Path, data: Path | None, samples: int | None) -> tuple[Reference, tuple[str, ...]]:
    """The hard forward of the run in `path`: on the samples that it keeps, or on the first of the task's test set.

    Also a complaint, where the run is not what the build was made from.
    """
    run = Run.open(path)
    lowered = lower(run.network, build.network.name)
    complaints: tuple[str, ...] = ()
    network = lowered.network
    if digest(lowered) != digest(build.proven):
        complaints = (f"{path}: this run lowers to another network than the one in {build.path}",)
        if record_sizes(network) != record_sizes(build.network) or network.inputs != build.network.inputs:
            raise ExecutorError(complaints[0])
    dtype = exact_dtype(lowered)
    kept = data is None and samples is None
    chosen = run.samples() if kept else _test_samples(run, data, samples)

    def batches(size: int) -> Batches:
        for part in batches_of(chosen, size):
            x = (part if kept else run.encoded(part)).x
            yield x, hard_trace(run.network, x, dtype)

    return Reference(len(chosen.y), batches), complaints


def _test_samples(run: Run, data: Path | None, samples: int | None) -> Split:
    """The first samples of the task's test set, or all, not encoded yet."""
    dataset = load_data(run.config, data)
    run.check(dataset)
    there = len(dataset.test.y)
    if samples is not None and samples > there:
        raise BadInput(f"--samples: the test set has {there} samples, not {samples}")
    return Split(dataset.test.x[:samples], dataset.test.y[:samples])
