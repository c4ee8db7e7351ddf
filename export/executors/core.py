"""The emitted C on emulated cores: cross-compiled and stepped by packages from pip alone."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from export.build import Build
from export.emit_c import input_dtype, record_dtype
from export.errors import ExecutorError
from export.executors.emulator import EmulationError, Machine
from export.executors.host import split_records
from export.executors.toolchain import CompileError, Core, compile_core
from export.fixed import Ints
from export.interpret import Trace

HARNESS = (
    "harness_step", "harness_reset", "harness_write", "harness_self_test",
    "harness_state", "harness_input", "harness_output", "harness_record",
)  # fmt: skip


@contextmanager
def machine_for(build: Build, core: Core) -> Iterator[Machine]:
    """The test program on an emulated core. Raises ExecutorError where it does not compile."""
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        elf = Path(folder) / "test.elf"
        try:
            compile_core(core, [build.test_program], elf, include=build.path, keep=HARNESS, defines=("QUANTAL_BARE",))
        except CompileError as error:
            raise ExecutorError(f"{build.header}: does not compile for {core.name} ({error})") from None
        yield Machine(core, elf)


def on_core(core: Core) -> Callable[[Build], AbstractContextManager[Callable[[Ints], Trace]]]:
    """The executor that runs NAME_test.c on `core`."""

    @contextmanager
    def executor(build: Build) -> Iterator[Callable[[Ints], Trace]]:
        records, inputs = record_dtype(build.network), input_dtype(build.network)
        with machine_for(build, core) as machine:
            source, record = machine.symbol("harness_input"), machine.symbol("harness_record")

            def run(x: Ints) -> Trace:
                content = []
                try:
                    for sample in x.astype(inputs):
                        machine.call("harness_reset")
                        for step in sample:
                            machine.write(source, step.tobytes())
                            machine.call("harness_step")
                            machine.call("harness_write")
                            content.append(machine.read(record, records.itemsize))
                except EmulationError as error:
                    raise ExecutorError(f"{build.header}: on {core.name}: {error}") from None
                return split_records(b"".join(content), records, *x.shape[:2])

            yield run

    return executor
