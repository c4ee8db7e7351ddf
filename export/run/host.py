"""The emitted C on this machine, compiled with cc or with the pip-installed compiler."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from quantal.export.base import process
from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.files import scratch
from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import CompileError, CompilerStopped, compile_host, target
from quantal.export.build import Build
from quantal.export.emit.c.memory import input_word, record_dtype
from quantal.export.ir.interpret import Trace
from quantal.export.run.answers import answers
from quantal.export.run.bounds import GENEROUS, Bounds
from quantal.export.run.runner import Runner
from quantal.export.verify.probes import Probe

_HASHES = re.compile(rb"_priv_test_hash\[(\d+)\] = \{[^}]*?(\d+)u\s*\}")
"""The table of the self test: how many steps it has, and the last of its hashes."""


def split_records(content: bytes, records: np.dtype[np.void], samples: int, steps: int) -> Trace:
    """The trace in what the test program wrote: one record after every step."""
    table = np.frombuffer(content, records).reshape(samples, steps)
    return {name: table[name] for name in records.names or ()}


def _compile(build: Build, source: Path, program: Path, seconds: int | None) -> None:
    """Compiles for speed: integers mean the same in whatever instructions the compiler takes. Raises ExecutorError."""
    try:
        try:
            compile_host([source], program, flags=["-O3", f"-march={target()}"], seconds=seconds)
        except CompilerStopped:
            raise
        except CompileError:  # some compilers have no -march
            compile_host([source], program, seconds=seconds)
    except CompileError as error:
        raise ExecutorError(f"{build.header}: does not compile ({error})") from None


@contextmanager
def on_host(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
    """NAME_test.c, streaming samples through standard input and records through standard output."""
    records, inputs = record_dtype(build.proven), input_word(build.network).dtype
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        program, read = Path(folder) / "test.exe", Path(folder) / "inputs"  # Windows wants the ending
        _compile(build, build.copy_sources(Path(folder)), program, bounds.seconds)

        def call(arguments: list[str], stdin: bytes, most: int, seconds: int, of: Path = program) -> bytes:
            scratch(read, stdin)  # a file, not a pipe, which would have to be fed while the other is read
            try:
                done = process.run([of, *arguments], seconds=seconds, most=most, stdin=read)
            except PermissionError as error:
                where = f"no program may run in {Path(folder).parent} ({error.strerror})"
                raise BadInput(f"{build.test_program}: {where}; set TMPDIR to a folder in which one may") from None
            if done.code != 0 or len(done.out) != most:
                raise ExecutorError(f"{build.test_program}: exit code {done.code}, {len(done.out)} bytes written")
            return done.out

        def run(x: Ints) -> Trace:
            samples, steps, _ = x.shape
            most = records.itemsize * samples * steps
            seconds = bounds.of_process(build.network, samples, steps)
            content = call([str(steps)], x.astype(inputs, order="C").tobytes(), most, seconds)
            return split_records(content, records, samples, steps)

        def ask(probe: Probe) -> tuple[Trace, Trace]:
            seconds = bounds.of_process(build.network, *probe.x.shape[:2])
            got: Trace = {}
            for function, answer in answers(probe, build.proven).items():
                arguments = [function, str(probe.x.shape[1])]
                got |= answer.split(call(arguments, answer.asked, answer.size, seconds))
            steps, wrong = _with_a_wrong_hash(build, Path(folder) / "wrong", bounds.seconds)
            number = call(["self_test"], b"", 4, seconds, of=wrong)
            expected = probe.of_header() | {WRONG: np.full((1, 1, 1), steps)}
            return expected, got | {WRONG: np.frombuffer(number, "<u4").reshape(1, 1, 1)}

        yield Runner(run, ask)


WRONG = "self_test of a wrong hash"


def _with_a_wrong_hash(build: Build, folder: Path, seconds: int | None) -> tuple[int, Path]:
    """(how many steps the self test has, the test program of a header in which the hash of the last is another)."""
    folder.mkdir()
    source = build.copy_sources(folder)
    header = folder / build.header.name
    text = header.read_bytes()
    table = _HASHES.search(text)
    if table is None:
        raise ExecutorError(f"{build.header}: has no hashes for its self test")
    start, end = table.span(2)
    scratch(header, b"%b%d%b" % (text[:start], int(table[2]) ^ 1, text[end:]))
    try:
        compile_host([source], folder / "test.exe", flags=["-O0"], seconds=seconds)
    except CompileError as error:
        raise ExecutorError(f"{build.header}: does not compile ({error})") from None
    return int(table[1]), folder / "test.exe"
