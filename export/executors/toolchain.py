"""Compiles generated C: for this machine with whatever C compiler it has, for the emulated cores with zig.

Zig is one pip package that carries clang, lld and the compiler's runtime library for every core, so the code a core
runs here is the same on every computer. Nothing is ever run by this module; see `emulator` for that.
"""

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from export.errors import BadInput
from export.executors import process

INSTALL = "pip install 'quantal[verify]'"
SECONDS = 600
"""How long a compiler may take, which at first builds its own library."""


class CompileError(Exception):
    """A compiler refused its input. `str()` is its first error line, `stderr` all that it said."""

    def __init__(self, stderr: str) -> None:
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        super().__init__(next((line for line in lines if "error:" in line), lines[-1] if lines else "no message"))
        self.stderr = stderr


@dataclass(frozen=True)
class Core:
    """A processor that C is cross-compiled for and that `emulator.Machine` can be."""

    name: str
    target: str
    """Zig's target triple."""
    flags: tuple[str, ...]
    """What else decides the instructions that the compiler may use."""

    @property
    def thumb(self) -> bool:
        """Arm's Thumb instruction set, where bit 0 of a function's address is set; RISC-V otherwise."""
        return self.target.startswith("thumb")


CORES: dict[str, Core] = {
    core.name: core
    for core in (
        Core("cortex-m0", "thumb-freestanding-eabi", ("-mcpu=cortex_m0",)),
        Core("cortex-m4", "thumb-freestanding-eabi", ("-mcpu=cortex_m4",)),
        Core("riscv32", "riscv32-freestanding-none", ("-mcpu=generic_rv32+m+c",)),
    )
}

# What a release build for a microcontroller uses. Zig's own defaults differ: it keeps a frame pointer and unwind
# tables, and it traps undefined behaviour in builds that are not optimised.
_CORE_FLAGS = (
    "-std=c99",
    "-O2",
    "-g0",
    "-ffreestanding",
    "-fomit-frame-pointer",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-sanitize=all",
    # One section a symbol: the linker can then drop what `keep` does not reach.
    "-ffunction-sections",
    "-fdata-sections",
)


@dataclass(frozen=True)
class Sizes:
    """Bytes of an object or program by where they end up, without padding between sections."""

    code: int
    """Instructions and the constants that the compiler puts among them: flash."""
    tables: int
    """Read-only data: flash."""
    data: int
    """Variables that start with a value: RAM, and as much flash again."""
    bss: int
    """Variables that start at zero: RAM."""


def require(module: str) -> ModuleType:
    """Imports a module of the `verify` extra. Raises BadInput with the line to install it where it cannot be."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise BadInput(f"cannot import {module} ({missing}): {INSTALL}") from missing


def host_compiler() -> list[str]:
    """The command of this machine's C compiler: `cc`, else zig's. Raises BadInput where there is neither."""
    return _host_command("cc", "C compiler")


def host_cxx_compiler() -> list[str]:
    """The command of this machine's C++ compiler: `c++`, else zig's. Raises BadInput where there is neither."""
    return _host_command("c++", "C++ compiler")


def compile_host(sources: Sequence[Path], out: Path, *, flags: Sequence[str] = ()) -> None:
    """Makes the program `out` for this machine, C99 at -O2; `flags` come last. Raises CompileError, BadInput."""
    invoke([*host_compiler(), "-std=c99", "-O2", *map(str, sources), "-o", str(out), *flags])


def compile_core(
    core: Core, sources: Sequence[Path], out: Path, *, include: Path, keep: Sequence[str], defines: Sequence[str] = ()
) -> None:
    """Links `sources` into a static ELF program that holds the external symbols `keep` and all that they reach.

    There is no startup code: `emulator.Machine` loads it and calls into it. `defines` are written NAME or NAME=VALUE.
    A name in `keep` that no source defines is not an error here. Raises CompileError, BadInput.
    """
    # Without -nostdlib on purpose: there is no libc to leave out on these targets, and the flag would also leave out
    # zig's runtime library, which has the division, memcpy and memset that the compiler calls by itself.
    roots = [f"-Wl,-u,{symbol}" for symbol in keep] + [f"-Wl,-e,{symbol}" for symbol in keep[:1]]
    invoke([*_cross_command(core, include, defines), "-static", "-Wl,--gc-sections", *roots, *_paths(sources, out)])


def compile_object(core: Core, source: Path, out: Path, *, include: Path, defines: Sequence[str] = ()) -> None:
    """Compiles one source without linking, as `compile_core` would, to size it. Raises CompileError, BadInput."""
    invoke([*_cross_command(core, include, defines), "-c", *_paths([source], out)])


def section_sizes(path: Path) -> Sizes:
    """Adds up the sections of an ELF file that take memory on the device; tables for unwinding are left out."""
    elffile = require("elftools.elf.elffile")
    flags = require("elftools.elf.constants").SH_FLAGS
    total = {"code": 0, "tables": 0, "data": 0, "bss": 0}
    with path.open("rb") as stream:
        for section in elffile.ELFFile(stream).iter_sections():
            if not section["sh_flags"] & flags.SHF_ALLOC or section.name.startswith((".ARM.ex", ".eh_frame")):
                continue
            if section["sh_flags"] & flags.SHF_EXECINSTR:
                kind = "code"
            elif not section["sh_flags"] & flags.SHF_WRITE:
                kind = "tables"
            else:
                kind = "bss" if section["sh_type"] == "SHT_NOBITS" else "data"
            total[kind] += section["sh_size"]
    return Sizes(**total)


def invoke(command: Sequence[str]) -> None:
    """Runs a compiler. Raises CompileError where it fails."""
    environment = os.environ | {"LC_ALL": "C"}  # messages in English, for CompileError to find "error:" in them
    if "ziglang" in command:
        cache = str(cache_folder("zig"))
        environment |= {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    try:
        done = process.run(command, seconds=SECONDS, environment=environment)
    except process.Stopped as error:
        raise CompileError(str(error)) from None
    if done.code:
        raise CompileError(done.err.decode(errors="replace"))


def _host_command(name: str, what: str) -> list[str]:
    if found := shutil.which(name):
        return [found]
    if importlib.util.find_spec("ziglang"):
        return _zig_command(name)
    raise BadInput(f"no {what}: neither `{name}` on PATH nor the ziglang package: {INSTALL}")


def _zig_command(name: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", name]


def _cross_command(core: Core, include: Path, defines: Sequence[str]) -> list[str]:
    require("ziglang")
    target = ["-target", core.target, *core.flags]
    return [*_zig_command("cc"), *target, *_CORE_FLAGS, f"-iquote{include}", *(f"-D{define}" for define in defines)]


def _paths(sources: Sequence[Path], out: Path) -> list[str]:
    return [*map(str, sources), "-o", str(out)]


def cache_folder(name: str) -> Path:
    """A folder of our own for what compilers make, which several processes may share. `QUANTAL_CACHE` moves it.

    Zig, which locks what it writes, keeps the runtime library of each core there (some 5 seconds a core to build).
    """
    if override := os.environ.get("QUANTAL_CACHE"):
        candidates = [Path(override)]
    else:
        shared = Path(tempfile.gettempdir()) / f"quantal-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
        candidates = [Path(os.path.expanduser("~")) / ".cache" / "quantal", shared]
    for candidate in candidates:
        cache = candidate / name
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(cache, os.W_OK):
            return cache
    raise BadInput(f"{candidates[-1]}: cannot write the compiler's cache here; set QUANTAL_CACHE to a folder")
