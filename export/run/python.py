"""The interpreter, in this process, and the emitted simulator and ONNX model, in one of their own that can be ended."""

import importlib.util
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from quantal.export.base import process
from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.files import scratch
from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import INSTALL
from quantal.export.build import Build
from quantal.export.emit.c.memory import input_word
from quantal.export.ir import interpret
from quantal.export.ir.interpret import Trace
from quantal.export.run.bounds import GENEROUS, Bounds
from quantal.export.run.runner import Runner
from quantal.export.verify.probes import Probe
from quantal.export.verify.vectors import record_sizes

_CHILD = Path(__file__).with_name("child.py")


@contextmanager
def on_interpreter(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
    """network.json, op by op."""
    yield Runner(lambda x: interpret.run(build.network, x))


@contextmanager
def on_simulator(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
    """NAME_sim.py, as it stands in the build."""

    def run(x: Ints) -> Trace:
        return _ask("simulator", build.simulator, {"x": _typed(build, x)}, _run_bounds(build, bounds, x))

    def ask(probe: Probe) -> tuple[Trace, Trace]:
        asked = {"x": _typed(build, probe.x), "outputs": probe.traces}
        seconds, _ = _run_bounds(build, bounds, probe.x)
        expected = probe.of_simulator()
        sizes = [values.size for values in expected.values()]
        return expected, _ask("simulator", build.simulator, asked, (seconds, _most(sizes)))

    yield Runner(run, ask)


@contextmanager
def on_onnx(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
    """NAME.onnx in onnxruntime, a call a step, the states carried from one to the next."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise BadInput(f"cannot import onnxruntime: {INSTALL}")
    states = interpret.initial_states(build.network, 1)
    # What is not compared, such as the states of a ring, need not come back.
    unseen = {f"not {name}": np.zeros(0, np.int8) for name in states if name not in record_sizes(build.network)}
    asked: dict[str, np.ndarray] = {f"state {name}": values for name, values in states.items()}

    def run(x: Ints) -> Trace:
        return _ask("onnx", build.onnx, {"x": _typed(build, x)} | asked | unseen, _run_bounds(build, bounds, x))

    yield Runner(run)


def _typed(build: Build, x: Ints) -> np.ndarray:
    return x.astype(input_word(build.network).dtype)


def _run_bounds(build: Build, bounds: Bounds, x: Ints) -> tuple[int, int]:
    """How many seconds a run of x may take, and how many bytes its trace."""
    samples, steps = x.shape[:2]
    sizes = [samples * steps * size for size in record_sizes(build.network).values()]
    return bounds.of_process(build.network, samples, steps), _most(sizes)


def _most(sizes: Collection[int]) -> int:
    """The most bytes of an npz file of arrays of so many values, or of a failure."""
    return (1 << 20) + sum(1024 + 8 * size for size in sizes)


def _ask(kind: str, model: Path, asked: Mapping[str, np.ndarray], bounds: tuple[int, int]) -> Trace:
    """What a child process makes of the model and of what it is asked. Raises ExecutorError where that is nothing."""
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        question, memory = Path(folder) / "asked.npz", io.BytesIO()
        np.savez(memory, **asked)  # type: ignore[arg-type]
        scratch(question, memory.getvalue())
        # -P: what lies beside a program of ours is none of our modules.
        command: list[str | Path] = [sys.executable, "-P", _CHILD, kind, model, question]
        seconds, most = bounds
        alone = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each would take memory, and integers need none
        done = process.run(command, seconds=seconds, most=most, environment=alone)
    if done.code != 0 or not zipfile.is_zipfile(io.BytesIO(done.out)):
        said = done.err.decode(errors="replace").splitlines()
        raise ExecutorError(f"{model}: ended with exit code {done.code} ({said[-1] if said else 'no message'})")
    with np.load(io.BytesIO(done.out), allow_pickle=False) as file:
        if "failure" in file.files:
            raise ExecutorError(f"{model}: {file['failure'].item()}")
        return {name.removeprefix("of "): file[name] for name in file.files}
