"""C compiled for the emulated cores means what it says, and what it costs is counted exactly."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from quantal.export.base import toolchain
from quantal.export.base.errors import BadInput
from quantal.export.base.toolchain import CORES, CompileError, Core, compile_core, compile_host, compile_object
from quantal.export.run.emulator import EmulationError, Machine

pytest.importorskip("ziglang")
pytest.importorskip("elftools")
unicorn = pytest.importorskip("unicorn")
arm_const = pytest.importorskip("unicorn.arm_const")

CODE = """
#include <stdint.h>
#include "values.h"
typedef struct { int32_t v[40]; } block;
int32_t state[SIZE];
int32_t seed = 7;
static block saved;

int32_t divide(int32_t a, int32_t b) { return a / b * 1000 + a % b; }
uint32_t udivide(uint32_t a, uint32_t b) { return a / b * 1000u + a % b; }
int32_t wide(int32_t a, int32_t b, int32_t c) { return (int32_t)((int64_t)a * b / c); }
int32_t shift(int32_t a, int32_t by) { return a >> by; }
int32_t lookup(int32_t n) {
    int32_t sum = seed;
    for (int32_t i = 0; i < n; i++) { sum += table[i & 7] * i; state[i % SIZE] = sum; }
    return sum;
}
int32_t copies(int32_t n) {  /* the compiler calls memset and memcpy for these */
    block work = {{0}};
    for (int32_t i = 0; i < n; i++) work.v[(i * 7) % 40] += i;
    saved = work;
    return saved.v[5] - saved.v[4];
}
int32_t choose(int32_t x) {
#ifdef __thumb2__
    __asm__("cmp %0, #0\\n itte ne\\n addne %0, %0, #1\\n addne.w %0, %0, #2\\n moveq %0, #9" : "+r"(x) : : "cc");
    return x;
#else
    return x ? x + 3 : 9;
#endif
}
#define TWICE(x) x x
#define STEP x = x * 13 + state[0]; state[0] = x;
int32_t straight(int32_t x) {  /* longer than a block that unicorn translates at once */
    TWICE(TWICE(TWICE(TWICE(TWICE(TWICE(TWICE(TWICE(STEP))))))))
    return x;
}
int32_t deep(int32_t n) { volatile int32_t x[4]; x[n & 3] = n; return n ? x[n & 3] + 3 * deep(n - 1) : 0; }
int32_t peek(const int32_t *at) { return *at; }
void scribble(void) { *(volatile int16_t *)table = 3; }
"""
VALUES = "static const int16_t table[8] = {1, -2, 30, -400, 5, -6, 7, -32768};\n"
TABLE = [1, -2, 30, -400, 5, -6, 7, -32768]
KEEP = "divide udivide wide shift lookup copies choose straight deep peek scribble seed state".split()


def signed(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def quotient(a: int, b: int) -> int:
    """C's division, which rounds to zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.fixture(scope="module", params=CORES)
def core(request: pytest.FixtureRequest) -> Core:
    return CORES[request.param]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "include").mkdir()
    (folder / "include" / "values.h").write_text(VALUES)
    (folder / "code.c").write_text(CODE)
    return folder / "code.c"


@pytest.fixture(scope="module")
def elf(core: Core, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(core.name) / "code.elf"
    compile_core(core, [source], out, include=source.parent / "include", keep=KEEP, defines=["SIZE=50"])
    return out


@pytest.fixture
def machine(core: Core, elf: Path) -> Machine:
    return Machine(core, elf)


def test_results_are_those_of_the_c_language(core: Core, machine: Machine) -> None:
    for a, b in ((100, 7), (-100, 7), (100, -7), (-(2**31), 3), (0, -1)):
        expected = quotient(a, b) * 1000 + (a - quotient(a, b) * b)
        assert machine.call("divide", a, b) == expected % 2**32
        assert machine.call("udivide", a, b) == (a % 2**32 // (b % 2**32) * 1000 + a % 2**32 % (b % 2**32)) % 2**32
        assert machine.call("wide", a, 123456, b) == quotient(a * 123456, b) % 2**32
    for by in (0, 1, 5, 31):
        assert signed(machine.call("shift", -12345, by)) == -12345 >> by
    work = [0] * 40
    for i in range(100):
        work[i * 7 % 40] += i
    assert signed(machine.call("copies", 100)) == work[5] - work[4]
    machine.symbol("__aeabi_memcpy4" if core.thumb else "memcpy")  # it was called, and linked


def test_memory_is_shared_with_the_program(machine: Machine) -> None:
    machine.write(machine.symbol("seed"), (-1000).to_bytes(4, "little", signed=True))
    sums = [-1000]
    for i in range(30):
        sums.append(sums[-1] + TABLE[i & 7] * i)
    assert signed(machine.call("lookup", 30)) == sums[-1]
    state = machine.read(machine.symbol("state"), 4 * 50)
    assert [int.from_bytes(state[i : i + 4], "little", signed=True) for i in range(0, 120, 4)] == sums[1:]
    assert not any(state[120:])


CALLS = [
    ("divide", -(2**31), 7),
    ("wide", 99999, -99999, 17),
    ("lookup", 40),
    ("copies", 100),
    ("straight", 3),
    ("deep", 9),
]


def per_instruction(core: Core, machine: Machine, call: tuple[Any, ...]) -> int:
    """Counts with a hook for each instruction, knowing nothing of blocks.

    Unicorn leaves out those in an IT block whose condition does not hold, so an IT stands for all that it governs.
    """
    count = 0
    governed: set[int] = set()

    def step(_engine: object, address: int, _size: int, _data: object) -> None:
        nonlocal count
        half = int.from_bytes(machine.read(address, 2), "little")
        if address in governed:
            return
        count += 1
        if core.thumb and half >> 8 == 0xBF and half & 0xF:
            length = 4 - ((half & 0xF) & -(half & 0xF)).bit_length() + 1
            at = address + 2
            for _ in range(length):
                governed.add(at)
                at += 4 if int.from_bytes(machine.read(at, 2), "little") >= 0xE800 else 2
            count += length

    machine.engine.ctl_flush_tb()
    hook = machine.engine.hook_add(unicorn.UC_HOOK_CODE, step)
    machine.call(*call)
    machine.engine.hook_del(hook)
    machine.engine.ctl_flush_tb()
    return count


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_counts_are_exact_and_repeat(core: Core, machine: Machine, call: tuple[Any, ...]) -> None:
    result = machine.call(*call) if call[0] != "straight" else None  # that one goes on from where it was
    first = machine.count(*call)
    assert result in (None, first.result)
    assert first.stack >= 0
    assert first.stack % 4 == 0
    assert first.instructions == per_instruction(core, machine, call)
    again = machine.count(*call)
    assert (again.instructions, again.stack) == (first.instructions, first.stack)


def test_counts_include_skipped_conditional_instructions(core: Core, machine: Machine) -> None:
    zero, five = machine.count("choose", 0), machine.count("choose", 5)
    assert (zero.result, five.result) == (9, 8)
    for counted, x in ((zero, 0), (five, 5)):
        assert counted.instructions == per_instruction(core, machine, ("choose", x))
    if core.name == "cortex-m4":
        assert zero.instructions == five.instructions == 6  # cmp, itte, the three that it governs, bx


def test_stack_grows_with_depth(machine: Machine) -> None:
    one, two, eleven = (machine.count("deep", n).stack for n in (1, 2, 11))
    assert 0 < two - one < 100
    assert eleven - two == 9 * (two - one)
    assert machine.count("deep", 2).stack == two


def test_faults_name_their_place(machine: Machine) -> None:
    with pytest.raises(EmulationError, match=r"peek: Invalid memory read .* at pc 0x[0-9a-f]+ \(peek\+0x"):
        machine.call("peek", 0x9000_0000)
    with pytest.raises(EmulationError, match=r"write-protected .* \(scribble\+0x"):
        machine.call("scribble")
    with pytest.raises(EmulationError, match=r"Invalid memory write .* \(deep\+0x"):
        machine.call("deep", 10**6)
    with pytest.raises(EmulationError, match="no symbol absent"):
        machine.call("absent")
    with pytest.raises(EmulationError, match="cannot read 4 bytes at 0x90000000"):
        machine.read(0x9000_0000, 4)
    assert machine.call("shift", 8, 1) == 4  # and it goes on working


def test_an_m0_allows_no_more_than_an_m0(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m4.elf"
    include = source.parent / "include"
    compile_core(
        CORES["cortex-m4"], [source], out, include=include, keep=["divide", "peek", "seed"], defines=["SIZE=50"]
    )
    small, large = (Machine(CORES[name], out) for name in ("cortex-m0", "cortex-m4"))
    assert large.call("divide", 100, 7) == 14002
    with pytest.raises(EmulationError, match=r"divide: Invalid instruction .*\(divide\+0x"):
        small.call("divide", 100, 7)
    assert small.call("peek", small.symbol("seed")) == 7
    with pytest.raises(EmulationError, match=r"peek: .*exception.*\(peek\+0x"):
        small.call("peek", small.symbol("seed") + 2)
    for machine, model in ((small, arm_const.UC_CPU_ARM_CORTEX_M0), (large, arm_const.UC_CPU_ARM_CORTEX_M4)):
        assert machine.engine.ctl_get_cpu_model() == model


def test_section_sizes(core: Core, tmp_path: Path) -> None:
    source, out = tmp_path / "sizes.c", tmp_path / "sizes.o"
    source.write_text(
        "const short table[100] = {1, 2}; int variable[7] = {1}; int zeros[30];\n"
        "int f(int i) { return table[i] + variable[i] + zeros[i]; }\n"
    )
    compile_object(core, source, out, include=tmp_path)
    sizes = toolchain.section_sizes(out)
    assert (sizes.tables, sizes.data, sizes.bss) == (200, 28, 120)
    assert 12 <= sizes.code <= 60


def test_same_source_gives_the_same_program(core: Core, elf: Path, source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.c"
    moved.write_text(CODE)
    out = tmp_path / "again.elf"
    compile_core(core, [moved], out, include=source.parent / "include", keep=KEEP, defines=["SIZE=50"])
    calls = [Machine(core, path).count("copies", 50) for path in (elf, out)]
    assert calls[0] == calls[1]
    assert toolchain.section_sizes(elf) == toolchain.section_sizes(out)


def test_errors_are_one_line(core: Core, tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int f(void) { return 1 }\nint g(void) { return nothing; }\n")
    for compile_it in (
        lambda: compile_core(core, [source], tmp_path / "o.elf", include=tmp_path, keep=["f"]),
        lambda: compile_object(core, source, tmp_path / "o.o", include=tmp_path),
        lambda: compile_host([source], tmp_path / "o"),
    ):
        with pytest.raises(CompileError, match=r"broken\.c:1:\d+: error: ") as caught:
            compile_it()
        assert "\n" not in str(caught.value)
        assert "broken.c:2" in caught.value.stderr


@pytest.mark.parametrize("name", ["a\\b", 'x "y', "a\nb", "$(x) #'%&", "ä"])
def test_a_path_may_hold_any_letter(
    name: str, core: Core, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "host_compiler", lambda _: [sys.executable, "-m", "ziglang", "cc"])
    folder = Path(shutil.copytree(source.parent, tmp_path / name))
    odd, include = folder / source.name, folder / "include"
    compile_core(core, [odd], folder / "o.elf", include=include, keep=KEEP, defines=["SIZE=50"])
    assert Machine(core, folder / "o.elf").call("shift", 8, 1) == 4
    compile_object(core, odd, folder / "o.o", include=include, defines=["SIZE=50"])
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    compile_host([folder / "main.c"], folder / "main")
    assert subprocess.run([folder / "main"], check=False).returncode == 0


def test_a_full_disk_is_no_fault_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers say so, or nothing at all."""
    (tmp_path / "empty.c").write_text("")  # without a main, and without a word of that where nothing can be written
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(toolchain.shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with pytest.raises(BadInput, match=r"cannot be written \(a compiler failed here, .* 4,096 bytes are free\)"):
        compile_host([tmp_path / "empty.c"], tmp_path / "empty")


def test_an_interruption_ends_what_a_core_does(machine: Machine) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        machine.call("lookup", 2**31 - 1)
    assert time.monotonic() - begun < 60  # of the hours that it would take
    assert machine.call("shift", 8, 1) == 4


def test_host_program(tmp_path: Path) -> None:
    source, out = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text('#include <stdio.h>\nint main(void) { printf("%d\\n", -7 / 2 + ADD); return 0; }\n')
    compile_host([source], out, flags=["-DADD=10"])
    assert subprocess.run([out], capture_output=True, text=True, check=True).stdout == "7\n"


def test_what_is_not_installed_is_named(elf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain.host_compiler() == [sys.executable, "-m", "ziglang", "cc"]
    assert toolchain.host_cxx_compiler() == [sys.executable, "-m", "ziglang", "c++"]
    for module in ("ziglang", "unicorn", "elftools.elf.elffile"):
        monkeypatch.setitem(sys.modules, module, None)
    for needs in (
        toolchain.host_compiler,
        toolchain.host_cxx_compiler,
        lambda: compile_object(CORES["riscv32"], tmp_path / "a.c", tmp_path / "a.o", include=tmp_path),
        lambda: toolchain.section_sizes(elf),
        lambda: Machine(CORES["riscv32"], elf),
    ):
        with pytest.raises(BadInput, match=r"pip install 'quantal\[verify\]'"):
            needs()
