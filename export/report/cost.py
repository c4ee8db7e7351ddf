"""What a network costs on a core, from the cross-compiled binary and the emulator: no estimate, no clock.

Bytes come from the sections of the compiled header, instructions from stepping the golden vectors on the emulated
core. Instructions are not cycles: flash wait states, caches and multi-cycle instructions are the board's own.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from quantal.export.base.errors import ExecutorError
from quantal.export.base.files import scratch
from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import CORES, CompileError, Sizes, compile_object, section_sizes
from quantal.export.build import Build
from quantal.export.emit.c.memory import input_word
from quantal.export.run.bounds import GENEROUS
from quantal.export.run.core import machine_for
from quantal.export.run.emulator import EmulationError


@dataclass(frozen=True)
class Cost:
    """Bytes, and instructions a step, of one network on one core."""

    core: str
    flash_tables: int
    flash_code: int
    ram_state: int
    ram_stack: int
    instructions_mean: float
    instructions_worst: int
    steps: int

    def as_json(self) -> dict[str, object]:
        """The row of `cost --json`."""
        return asdict(self) | {"flash": self.flash_tables + self.flash_code, "ram": self.ram_state + self.ram_stack}


def compiled_sizes(build: Build, core_name: str) -> Sizes:
    """The sections of the header, and of one state, compiled for a core. Raises ExecutorError where it does not."""
    core, name = CORES[core_name], build.network.name
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        source, compiled = Path(folder) / "model.c", Path(folder) / "model.o"
        text = f'#define {name.upper()}_IMPLEMENTATION\n#include "{name}.h"\n{name}_state state_of_one;\n'
        build.copy_sources(Path(folder))
        scratch(source, text)
        try:
            compile_object(core, source, compiled, include=source.parent)
        except CompileError as error:
            raise ExecutorError(f"{build.header}: does not compile for {core.name} ({error})") from None
        return section_sizes(compiled)


def measure(build: Build, core_name: str, x: Ints, advance: Callable[[int], None]) -> Cost:
    """The cost on one core, over the inputs x (samples, steps, inputs). Equal on every run.

    Raises ExecutorError where the header does not compile, or does not come to an end.
    """
    core, sizes = CORES[core_name], compiled_sizes(build, core_name)
    counts, stack, most = [], 0, GENEROUS.of_call(build.network)
    with machine_for(build, core) as machine:
        place = machine.symbol("harness_input")
        try:
            for sample in x.astype(input_word(build.network).dtype):
                machine.call("harness_reset", most=most)
                for step in sample:
                    machine.write(place, step.tobytes())
                    counted = machine.count("harness_step", most=most)
                    counts.append(counted.instructions)
                    stack = max(stack, counted.stack)
                advance(1)
        except EmulationError as error:
            raise ExecutorError(f"{build.header}: on {core.name}: {error}") from None
    mean = sum(counts) / len(counts)
    return Cost(core_name, sizes.tables, sizes.code, sizes.bss + sizes.data, stack, mean, max(counts), len(counts))
