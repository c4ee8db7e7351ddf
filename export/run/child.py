"""Runs a build's simulator or ONNX model in a process of its own: child.py simulator|onnx MODEL ASKED.npz.

A program, not a module: of quantal it knows nothing. The answer, an npz file too, goes to standard output; where the
model fails, it holds one line that says how, under "failure". What the model itself prints goes to standard error.
"""

import io
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class Failure(Exception):
    """The model does not load or run. The message is one line."""


def first_line(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def simulator(path: Path, asked: Arrays) -> Arrays:
    """The trace of x, or where there are outputs to decide on, what each function gives by itself."""
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # to exit early, with whatever code, is to fail
        raise Failure(f"does not load ({type(error).__name__}: {error})") from None
    try:
        if "outputs" not in asked:
            return {name: np.asarray(values) for name, values in module.run(asked["x"]).items()}
        first = module.initial_state(len(asked["x"]))
        answers = {f"{name} after initial_state": np.asarray(values)[:, None] for name, values in first.items()}
        after = module.step(first, asked["x"][:, 0].astype(np.int32))
        answers |= {f"{name} after step": np.asarray(values)[:, None] for name, values in after.items()}
        return answers | {"classify": np.asarray(module.classify(asked["outputs"])).reshape(-1, 1, 1)}
    except (Exception, SystemExit) as error:
        raise Failure(f"fails to run ({first_line(error)})") from None


def onnx(path: Path, asked: Arrays) -> Arrays:
    """The trace of x, a call a step, the states carried from one to the next; "state NAME" is the first of each."""
    import onnxruntime as runtime

    options: Any = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Failure(f"onnxruntime does not load it ({(str(error).splitlines() or [''])[0]})") from None
    x = asked["x"]
    starts = {name.removeprefix("state "): values for name, values in asked.items() if name.startswith("state ")}
    states = {name: np.repeat(values.astype(np.int32), len(x), axis=0) for name, values in starts.items()}
    names = [output.name for output in session.get_outputs()]
    steps = []
    try:
        for t in range(x.shape[1]):
            results = session.run(names, {"input": x[:, t].astype(np.int32), **states})
            after = {name.removesuffix(".next"): values for name, values in zip(names, results, strict=True)}
            states = {name: after[name] for name in states}
            steps.append({name: values for name, values in after.items() if f"not {name}" not in asked})
        return {name: np.stack([after[name] for after in steps], axis=1) for name in steps[0]}
    except Exception as error:
        raise Failure(f"fails to run ({first_line(error)})") from None


def main() -> None:
    """Reads what is asked, and writes the answer, or why there is none."""
    kind, model, question = sys.argv[1], *map(Path, sys.argv[2:])
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with np.load(question, allow_pickle=False) as file:
        asked = {name: file[name] for name in file.files}
    asked["x"] = asked["x"].astype(np.int64)
    try:
        answers = {"simulator": simulator, "onnx": onnx}[kind](model, asked)
        odd = [name for name, values in answers.items() if values.dtype.kind not in "biuf"]
        if odd:
            raise Failure(f"fails to run ({odd[0]}: gives no numbers)")
        # A prefix: np.savez has arguments of its own.
        given = {f"of {name}": values for name, values in answers.items()}
    except Failure as failure:
        given = {"failure": np.array(str(failure))}
    memory = io.BytesIO()
    np.savez(memory, **given)  # type: ignore[arg-type]
    left = memory.getbuffer()
    while left:
        left = left[os.write(out, left) :]


if __name__ == "__main__":
    main()
