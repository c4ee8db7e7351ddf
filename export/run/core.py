"""The emitted C on emulated cores: cross-compiled and stepped by packages from pip alone."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from quantal.export.base.errors import ExecutorError
from quantal.export.base.fixed import Ints
from quantal.export.base.names import FUNCTIONS
from quantal.export.base.toolchain import CompileError, Core, compile_core
from quantal.export.build import Build
from quantal.export.emit.c.header import SELF_TEST_STEPS
from quantal.export.emit.c.memory import input_word, record_dtype
from quantal.export.ir.interpret import Trace
from quantal.export.run.answers import Answer, answers
from quantal.export.run.bounds import GENEROUS, Bounds
from quantal.export.run.emulator import EmulationError, Machine
from quantal.export.run.host import split_records
from quantal.export.run.runner import Runner
from quantal.export.verify.probes import FILLINGS, GUARD, Probe

HARNESS = (
    "harness_step", "harness_reset", "harness_write", "harness_write_rings", "harness_fill", "harness_self_test",
    "harness_macros", "harness_state", "harness_input", "harness_output", "harness_record", "harness_rings",
    "harness_of_macros",
)  # fmt: skip


@contextmanager
def machine_for(build: Build, core: Core, seconds: int | None = None) -> Iterator[Machine]:
    """The test program on an emulated core. Raises ExecutorError where it does not compile, in so many seconds."""
    keep = (*HARNESS, *(f"{build.network.name}_{function}" for function in FUNCTIONS))
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        source, elf = build.copy_sources(Path(folder)), Path(folder) / "test.elf"
        try:
            defines = ("QUANTAL_BARE",)
            compile_core(core, [source], elf, include=source.parent, keep=keep, defines=defines, seconds=seconds)
        except CompileError as error:
            raise ExecutorError(f"{build.header}: does not compile for {core.name} ({error})") from None
        yield Machine(core, elf)


def on_core(core: Core) -> Callable[..., AbstractContextManager[Runner]]:
    """The executor that runs NAME_test.c on `core`."""

    @contextmanager
    def executor(build: Build, bounds: Bounds = GENEROUS) -> Iterator[Runner]:
        with machine_for(build, core, bounds.seconds) as machine:
            caller = _Caller(machine, build, bounds)

            def told(function: Callable[..., Any]) -> Callable[..., Any]:
                def call(given: Any) -> Any:
                    try:
                        return function(given)
                    except EmulationError as error:
                        raise ExecutorError(f"{build.header}: on {core.name}: {error}") from None

                return call

            yield Runner(told(caller.run), told(caller.ask))

    return executor


class _Caller:
    """Calls the harness, and the network's functions themselves, as a program on the core would."""

    def __init__(self, machine: Machine, build: Build, bounds: Bounds) -> None:
        self.machine, self.proven, self.network = machine, build.proven, build.network
        self.bounds = bounds
        self.records, self.inputs = record_dtype(build.proven), input_word(build.network).dtype
        self.source, self.record = machine.symbol("harness_input"), machine.symbol("harness_record")
        self.most = bounds.of_call(build.network)

    def run(self, x: Ints) -> Trace:
        """The trace of x, step by step."""
        content = []
        for sample in x.astype(self.inputs):
            self._harness("reset")
            for step in sample:
                self.machine.write(self.source, step.tobytes())
                self._harness("step")
                self._harness("write")
                content.append(self.machine.read(self.record, self.records.itemsize))
        return split_records(b"".join(content), self.records, *x.shape[:2])

    def ask(self, probe: Probe) -> tuple[Trace, Trace]:
        """What the functions must answer, and what they do."""
        got: Trace = {}
        for function, answer in answers(probe, self.proven).items():
            got |= answer.split(b"".join(getattr(self, f"_{function}")(probe, answer)))
        return probe.of_header(), got

    def _harness(self, name: str, *arguments: int) -> None:
        self.machine.call(f"harness_{name}", *arguments, most=self.most)

    def _call(self, function: str, *arguments: int, steps: int = 1) -> int:
        most = self.bounds.of_call(self.network, steps)
        return self.machine.call(f"{self.network.name}_{function}", *arguments, most=most)

    def _arrays(self) -> bytes:
        self._harness("write")
        return self.machine.read(self.record, self.records.itemsize - 4 * self.network.outputs)

    def _number(self, function: str, *arguments: int, steps: int = 1) -> bytes:
        return self._call(function, *arguments, steps=steps).to_bytes(4, "little")

    def _reset(self, probe: Probe, answer: Answer) -> Iterator[bytes]:
        arrays = self.records.itemsize - 4 * self.network.outputs
        rings = answer.size // len(FILLINGS) - arrays
        for filling in FILLINGS:
            self._harness("fill", filling)
            self._call("reset", self.machine.symbol("harness_state"))
            yield self._arrays()
            if rings:
                self._harness("write_rings")
                yield self.machine.read(self.machine.symbol("harness_rings"), rings)

    def _argmax(self, probe: Probe, answer: Answer) -> Iterator[bytes]:
        row = self.machine.room(4 * self.network.outputs + 4)
        for outputs in np.pad(probe.outputs, ((0, 0), (0, 1)), constant_values=2**31 - 1).astype("<i4"):
            self.machine.write(row, outputs.tobytes())  # what stands behind them is the greatest
            yield self._number("argmax", row)

    def _classify(self, probe: Probe, answer: Answer) -> Iterator[bytes]:
        state, steps = self.machine.symbol("harness_state"), probe.x.shape[1]
        source = self.machine.room(probe.x[0].size * self.inputs.itemsize)
        self._harness("fill", FILLINGS[0])
        for sample in probe.x.astype(self.inputs):
            self.machine.write(source, sample.tobytes())
            yield self._number("classify", state, source, steps, steps=steps)
            yield self._arrays()
        yield self._number("classify", state, source, 0)

    def _macros(self, probe: Probe, answer: Answer) -> Iterator[bytes]:
        self._harness("macros")
        yield self.machine.read(self.machine.symbol("harness_of_macros"), answer.size)

    def _self_test(self, probe: Probe, answer: Answer) -> Iterator[bytes]:
        self._harness("fill", FILLINGS[0])
        yield self._number("self_test", self.machine.symbol("harness_state"), steps=SELF_TEST_STEPS)

    def _encode(self, probe: Probe, answer: Answer) -> Iterator[bytes]:
        columns, calls = answer.tables[-1]
        sizes = [np.dtype(column[1]).itemsize * column[2][0] for column in columns]
        values = len(answer.asked) // calls - 4
        one = values // int(self.network.encoding["channels"])
        source, codes, sent = (self.machine.room(size) for size in (values, sizes[0], values + one))
        for filling in FILLINGS if len(columns) > 1 else ():
            self.machine.write(sent, bytes([filling]) * (values + one))
            self._call("encoder_reset", sent)
            yield self.machine.read(sent, values + one)
        guard = np.full(self.network.inputs + 1, GUARD, self.inputs).tobytes()
        for start in range(0, len(answer.asked), 4 + values):
            step = int.from_bytes(answer.asked[start : start + 4], "little")
            self.machine.write(source, answer.asked[start + 4 : start + 4 + values])
            self.machine.write(codes, guard)
            if len(columns) > 1:
                if step == 0:
                    self._call("encoder_reset", sent)
                self._call("encode", sent, source, codes)
                yield self.machine.read(codes, sizes[0]) + self.machine.read(sent, values)
            else:
                self._call("encode", source, step, codes)
                yield self.machine.read(codes, sizes[0])
