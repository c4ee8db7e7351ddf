"""The emitted C on this machine, compiled with cc or with the pip-installed compiler."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from export.build import Build
from export.emit_c import input_dtype, record_dtype
from export.errors import ExecutorError
from export.executors.toolchain import CompileError, compile_host, target
from export.files import scratch
from export.fixed import Ints
from export.interpret import Trace


def split_records(content: bytes, records: np.dtype[np.void], samples: int, steps: int) -> Trace:
    """The trace in what the test program wrote: one record after every step."""
    table = np.frombuffer(content, records).reshape(samples, steps)
    return {name: table[name] for name in records.names or ()}


def _compile(source: Path, program: Path) -> None:
    """Compiles for speed: integers mean the same in whatever instructions the compiler takes. Raises CompileError."""
    try:
        compile_host([source], program, flags=["-O3", f"-march={target()}"])
    except CompileError:  # some compilers have no -march
        compile_host([source], program)


@contextmanager
def on_host(build: Build) -> Iterator[Callable[[Ints], Trace]]:
    """NAME_test.c, streaming samples through standard input and records through standard output."""
    records, inputs = record_dtype(build.network), input_dtype(build.network)
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        program, inputs_file = Path(folder) / "test.exe", Path(folder) / "inputs"  # Windows wants the ending
        try:
            _compile(build.test_program, program)
        except CompileError as error:
            raise ExecutorError(f"{build.header}: does not compile ({error})") from None

        def run(x: Ints) -> Trace:
            samples, steps, _ = x.shape
            # A file, not a pipe: where there are two pipes, subprocess writes 512 bytes at a time.
            scratch(inputs_file, x.astype(inputs, order="C").tobytes())
            with inputs_file.open("rb") as stdin:
                done = subprocess.run(
                    [str(program), str(steps)],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
            if done.returncode != 0 or len(done.stdout) != records.itemsize * samples * steps:
                raise ExecutorError(
                    f"{build.test_program}: exit code {done.returncode}, {len(done.stdout)} bytes written"
                )
            return split_records(done.stdout, records, samples, steps)

        yield run
