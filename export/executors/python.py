"""The executors that run in this process: the interpreter, the emitted simulator, the ONNX model."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from export import interpret, reading
from export.build import Build
from export.errors import BadInput, ExecutorError
from export.executors.toolchain import require
from export.fixed import Ints
from export.interpret import Trace

Runner = Callable[[Ints], Trace]


@contextmanager
def on_interpreter(build: Build) -> Iterator[Runner]:
    """network.json, op by op."""
    yield lambda x: interpret.run(build.network, x)


@contextmanager
def on_simulator(build: Build) -> Iterator[Runner]:
    """NAME_sim.py, as it stands in the build."""
    spec = importlib.util.spec_from_file_location(f"{build.network.name}_sim", build.simulator)
    if spec is None or spec.loader is None:
        raise BadInput(f"{build.simulator}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        # Compiled from the text: a stale byte-code cache beside it must not answer for a changed file.
        exec(compile(reading.text(build.simulator, reading.LARGE_TEXT), str(build.simulator), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # to exit early, with whatever code, is to fail
        raise ExecutorError(f"{build.simulator}: does not load ({type(error).__name__}: {error})") from None
    yield _guarded(lambda x: module.run(x), str(build.simulator))


@contextmanager
def on_onnx(build: Build) -> Iterator[Runner]:
    """NAME.onnx in onnxruntime, a call a step, the states carried from one to the next."""
    runtime: Any = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(build.onnx.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = str(error).splitlines()[0]
        raise ExecutorError(f"{build.onnx}: onnxruntime does not load it ({first})") from None
    names = [output.name for output in session.get_outputs()]
    compared = {"output", *(name for layer in build.network.layers for name, _ in layer.records())}

    def run(x: Ints) -> Trace:
        states = {k: v.astype(np.int32) for k, v in interpret.initial_states(build.network, len(x)).items()}
        steps = []
        for t in range(x.shape[1]):
            results = session.run(names, {"input": x[:, t].astype(np.int32), **states})
            after = {name.removesuffix(".next"): value for name, value in zip(names, results, strict=True)}
            states = {name: after[name] for name in states}
            steps.append({name: value for name, value in after.items() if name in compared})
        return {name: np.stack([after[name] for after in steps], axis=1) for name in steps[0]}

    yield _guarded(run, str(build.onnx))


def _guarded(run: Callable[[Ints], Any], where: str) -> Runner:
    def guarded(x: Ints) -> Trace:
        try:
            trace = {name: np.asarray(values) for name, values in run(x).items()}
        except (Exception, SystemExit) as error:
            first = (str(error).splitlines() or [""])[0]
            raise ExecutorError(f"{where}: fails to run ({type(error).__name__}: {first})") from None
        return trace

    return guarded
