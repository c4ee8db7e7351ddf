"""The interpreter, in this process, and the emitted simulator and ONNX model, in one of their own that can be ended."""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from export import interpret
from export.bounds import GENEROUS, Bounds
from export.build import Build
from export.emit_c import input_dtype
from export.errors import BadInput, ExecutorError
from export.executors import process
from export.executors.runner import Runner
from export.executors.toolchain import INSTALL
from export.fixed import Ints
from export.interpret import Trace
from export.probes import Probe
from export.vectors import record_sizes

_CHILD = Path(__file__).with_name("child.py")


@contextmanager
def on_interpreter(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
    """network.json, op by op."""
    yield Runner(lambda x: interpret.run(build.network, x))


@contextmanager
def on_simulator(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
    """NAME_sim.py, as it stands in the build."""

    def run(x: Ints) -> Trace:
        return _ask("simulator", build.simulator, {"x": _typed(build, x)}, _seconds(build, bounds, x))

    def ask(probe: Probe) -> tuple[Trace, Trace]:
        asked = {"x": _typed(build, probe.x), "outputs": probe.traces}
        return probe.of_simulator(), _ask("simulator", build.simulator, asked, _seconds(build, bounds, probe.x))

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
        return _ask("onnx", build.onnx, {"x": _typed(build, x)} | asked | unseen, _seconds(build, bounds, x))

    yield Runner(run)


def _typed(build: Build, x: Ints) -> np.ndarray:
    return x.astype(input_dtype(build.network))


def _seconds(build: Build, bounds: Bounds, x: Ints) -> int:
    return bounds.of_process(build.network, *x.shape[:2])


def _ask(kind: str, model: Path, asked: Mapping[str, np.ndarray], seconds: int) -> Trace:
    """What a child process makes of the model and of what it is asked. Raises ExecutorError where that is nothing."""
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        question, answer = Path(folder) / "asked.npz", Path(folder) / "answer.npz"
        np.savez(question, **asked)  # type: ignore[arg-type]
        # -P: what lies beside a program of ours is none of our modules.
        command: list[str | Path] = [sys.executable, "-P", _CHILD, kind, model, question, answer]
        done = process.run(command, seconds=seconds)
        failure = answer.with_suffix(".txt")
        if failure.exists():
            raise ExecutorError(f"{model}: {failure.read_text(encoding='utf-8')}")
        if done.code != 0 or not answer.exists():
            said = done.err.decode(errors="replace").splitlines()
            raise ExecutorError(f"{model}: ended with exit code {done.code} ({said[-1] if said else 'no message'})")
        with np.load(answer, allow_pickle=False) as file:
            return {name.removeprefix("of "): file[name] for name in file.files}
