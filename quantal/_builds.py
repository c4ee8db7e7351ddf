"""The public functions of builds. None of them imports torch, but `trace` of a run and `verify` against one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from quantal.export import run as executors
from quantal.export.base import toolchain
from quantal.export.base.errors import BadInput, ExecutorError, named, shown
from quantal.export.base.fixed import Ints
from quantal.export.base.names import check_network
from quantal.export.build import Build, write_build
from quantal.export.ir.network import Network
from quantal.export.proof.intervals import prove
from quantal.export.report.cost import Cost, measure
from quantal.export.run.bounds import Bounds
from quantal.export.run.verify import BATCH, stored
from quantal.export.run.verify import verify as verify_on
from quantal.export.verify.vectors import Comparison, record_sizes

if TYPE_CHECKING:
    from quantal.qat.training.run import Run

EXECUTORS = tuple(executors.EXECUTORS)
"""What can run a build: "interpreter", "simulator", "onnx", "c-host", and each of CORES, emulated."""

CORES = tuple(toolchain.CORES)
"""The cores that a build can be compiled for and run on here, emulated: "cortex-m0", "cortex-m4", "riscv32"."""


def load_build(path: str | Path) -> Build:
    """The build in the folder `path`.

    Its attributes: `path`; `network`, the integer network (layers with their ops, states and weights as integers);
    `header`, `simulator` and `onnx`, the paths of these files; `complaints`, a line for each file that is not as it was
    exported. `vectors()` gives the golden vectors: x (samples, steps, inputs) and the trace (see `trace`).

    Raises BadInput where a file is missing or malformed.

    >>> build = quantal.load_build("build")
    >>> [layer.name for layer in build.network.layers], build.network.inputs, build.complaints
    (['hidden', 'readout'], 64, ())
    """
    return Build.open(Path(path))


def save_build(path: str | Path, network: Network, x: ArrayLike, golden: dict[str, np.ndarray]) -> Build:
    """Writes the folder `path`, new or empty: C header, simulator, ONNX model, test program, network.json and vectors.

    network: as `lower` gives it, or a build's. x: integers (samples, steps, inputs). golden: what the network must do
    on x, as `trace` gives it of the run: every record (samples, steps, neurons), and "output". It is the reference of
    `verify`.

    Raises BadInput where the folder is not free, or x or golden are not of this network.

    >>> network = quantal.lower(run, "tiny")
    >>> x = quantal.encode(run, data.test.x[:8])
    >>> quantal.save_build("tiny", network, x, quantal.trace(run, x)).header
    PosixPath('tiny/tiny.h')
    """
    check_network(network.name, "name")
    inputs = _inputs(x, network.inputs, network.input_lo, network.input_hi)
    sizes = record_sizes(network)
    if odd := sorted(set(sizes) ^ set(golden)):
        raise BadInput(f"golden: {named(odd[0])}: expected exactly the records {', '.join(sizes)}")
    for name, size in sizes.items():
        values, expected = np.asarray(golden[name]), (*inputs.shape[:2], size)
        if values.dtype.kind not in "iu" or values.shape != expected:
            raise BadInput(f"golden: {name}: expected integers {expected}, got {values.dtype} {shown(values.shape)}")
    write_build(Path(path), prove(network), inputs, {name: np.asarray(golden[name]) for name in sizes})
    return Build.open(Path(path))


def trace(
    of: "Build | Run", x: ArrayLike, on: str = "interpreter", seconds: int | None = None
) -> dict[str, np.ndarray]:
    """What a build or a run does on x, step by step: all states, spikes and outputs as integers.

    x: integers (samples, steps, inputs), encoded (see `encode`). Of a build, the executor `on` runs it, each process
    for at most so many seconds, where that is given; of a run, torch's hard forward, and `on` has no effect.
    Gives {"hidden.u": (samples, steps, neurons), "hidden.spike": …, …, "output": …}: each state and each layer's output
    after each step, under the layer's name, in accumulator units; spikes are 0 or 1.

    Raises BadInput where x is not of this network or the executor cannot run here, ExecutorError where it fails.

    >>> x, golden = build.vectors()
    >>> found = quantal.trace(build, x, on="simulator")
    >>> {name: values.shape for name, values in found.items()}["hidden.spike"]
    (32, 4, 16)
    >>> all((quantal.trace(run, x)[name] == values).all() for name, values in found.items())
    True
    """
    if not isinstance(of, Build):
        from quantal.qat.reference import forward

        return forward(of, _inputs(x, of.network.inputs, 0, of.network.input_maximum))
    if on not in EXECUTORS:
        raise BadInput(f"on: expected one of {', '.join(EXECUTORS)}, got {shown(on)}")
    network = of.network
    inputs = _inputs(x, network.inputs, network.input_lo, network.input_hi)
    with executors.EXECUTORS[on](of, Bounds(seconds)) as runner:
        return {name: np.asarray(values) for name, values in runner.run(inputs).items()}


def verify(
    build: Build,
    on: str = "interpreter",
    run: str | Path | None = None,
    data: str | Path | None = None,
    samples: int | None = None,
    seconds: int | None = None,
) -> Comparison:
    """Compares every state, spike and output of every step on the executor `on` with torch's, and its functions.

    The reference is the golden vectors of the build, or with `run`, its folder, torch's forward, which runs again: on
    the samples that the run keeps, or with `data` or `samples` on the first of its task's test set. seconds: how long
    each process may take, compilers included. Gives a Comparison: `good`; the counts `samples`, `steps`, `values` and
    `mismatches`; and `first`, the first mismatch: `sample`, `step`, `layer`, `record`, `neuron`, `expected`, `got`.

    Raises ExecutorError where the executor fails or a file has changed since the export, BadInput where it cannot run.

    >>> comparison = quantal.verify(build, on="interpreter", run="run", samples=50)
    >>> comparison.good, comparison.samples, comparison.mismatches, comparison.first
    (True, 50, 0, None)
    """
    if on not in EXECUTORS:
        raise BadInput(f"on: expected one of {', '.join(EXECUTORS)}, got {shown(on)}")
    if data is not None and run is None:
        raise BadInput("data: torch has to run on these samples; name the run")
    try:
        if run is None:
            reference, complaints = stored(build, samples), build.complaints
        else:
            from quantal.qat.reference import of_run

            reference, more = of_run(build, Path(run), None if data is None else Path(data), samples)
            complaints = (*build.complaints, *more)
    except BadInput as error:  # which names an option of the command line
        raise BadInput(str(error).removeprefix("--")) from None
    if complaints:
        raise ExecutorError(complaints[0])
    comparison, failure = verify_on(build, on, reference.batches(BATCH), lambda _: None, Bounds(seconds))
    if failure is not None:
        raise failure
    return comparison


def cost(build: Build, core: str) -> Cost:
    """What the network costs on a core, of CORES: no estimate, and equal on every run.

    Gives a Cost: `flash_tables`, `flash_code`, `ram_state` and `ram_stack` in bytes of the cross-compiled header;
    `instructions_mean` and `instructions_worst` a step, counted on the emulated core over the golden vectors.

    Raises BadInput where the core cannot be emulated here or a file changed, ExecutorError where the header fails.

    >>> counted = quantal.cost(build, "riscv32")
    >>> counted.instructions_mean <= counted.instructions_worst, counted.steps
    (True, 128)
    """
    if core not in CORES:
        raise BadInput(f"core: expected one of {', '.join(CORES)}, got {shown(core)}")
    if build.complaints:
        raise BadInput(build.complaints[0])
    x, _ = build.vectors()
    return measure(build, core, x, lambda _: None)


def _inputs(x: Any, inputs: int, lo: int, hi: int) -> Ints:
    """x as integers (samples, steps, inputs) in [lo, hi]. Raises BadInput else."""
    values = np.asarray(x)
    if values.dtype.kind not in "iu" or values.ndim != 3 or values.shape[2] != inputs or not values.size:
        expected = f"expected integers (samples, steps, {inputs}), none empty"
        raise BadInput(f"x: {expected}, got {values.dtype} {shown(values.shape)}")
    if values.min() < lo or values.max() > hi:
        raise BadInput(f"x: expected values {lo}..{hi}, got {values.min()}..{values.max()}")
    return values.astype(np.int64)
