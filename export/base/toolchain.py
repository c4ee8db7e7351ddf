"""Compiles generated C: for this machine with whatever C compiler it has, for the emulated cores with zig.

Zig is one pip package that carries clang, lld and the compiler's runtime library for every core, so the code a core
runs here is the same on every computer. Nothing is ever run by this module; see `emulator` for that.

`CC` and `CXX` choose this machine's compilers, `QUANTAL_TARGET` the processor that they compile for, and
`QUANTAL_CACHE` the folder in which they keep what they made.
"""

import functools
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from quantal.export.base import portable, process, reading
from quantal.export.base.errors import BadInput
from quantal.export.base.files import scratch

INSTALL = "pip install 'quantal[verify]'"
SECONDS = 600
"""How long a compiler may take, which at first builds its own library."""


_ERROR = re.compile("error:", re.IGNORECASE)
_LINKER = re.compile(
    "undefined (reference|symbol)|multiple definition|cannot find|overflowed|unrecognized", re.IGNORECASE
)
_NO_MEMORY = re.compile(
    "out ?of ?memory|memory exhausted|cannot allocate memory|std::bad_alloc|killed signal", re.IGNORECASE
)
_ROOM = 1 << 22
"""Bytes that must be free for a compiler that fails to be believed."""
_SUMMARY = re.compile(r"ld returned \d+ exit status|linker command failed")
"""What a driver says last of a linker that has told what is wrong."""


class CompileError(Exception):
    """A compiler or linker refused its input. `str()` is what it complained of first, `stderr` all that it said."""

    def __init__(self, stderr: str) -> None:
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        told = [line for line in lines if not _SUMMARY.search(line)]
        complaints = [k for kind in (_ERROR, _LINKER) for k, line in enumerate(told) if kind.search(line)]
        at = complaints[0] if complaints else len(told) - 1
        first = " ".join(told[at : at + 2] if told[at].endswith(":") else told[at : at + 1]) if told else ""
        super().__init__(first or (lines[-1] if lines else "no message"))
        self.stderr = stderr


class CompilerStopped(CompileError):
    """A compiler did not come to its end in time: another try would take as long."""


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


def target() -> str:
    """The processor that code for this machine is compiled for, as -march has it: `QUANTAL_TARGET`, or this one.

    A lesser one than this is imitated by it: x86-64, x86-64-v3.
    """
    return os.environ.get("QUANTAL_TARGET") or "native"


def host_compiler(seconds: int | None = None) -> list[str]:
    """The command of this machine's C compiler: `CC`, else `cc` where it works, else zig's. Raises BadInput."""
    return _host_command("CC", "cc", "C compiler", seconds)


def host_cxx_compiler() -> list[str]:
    """The command of this machine's C++ compiler: `CXX`, else `c++` where it works, else zig's. Raises BadInput."""
    return _host_command("CXX", "c++", "C++ compiler", None)


def compile_host(sources: Sequence[Path], out: Path, *, flags: Sequence[str] = (), seconds: int | None = None) -> None:
    """Makes the program `out` for this machine, C99 at -O2; `flags` come last. Raises CompileError, BadInput.

    seconds: how long that may take; SECONDS unless given, here and below.
    """
    _compile([*host_compiler(seconds), "-std=c99", "-O2"], sources, out, flags=flags, seconds=seconds)


def compile_core(
    core: Core,
    sources: Sequence[Path],
    out: Path,
    *,
    include: Path,
    keep: Sequence[str],
    defines: Sequence[str] = (),
    seconds: int | None = None,
) -> None:
    """Links `sources` into a static ELF program that holds the external symbols `keep` and all that they reach.

    There is no startup code: `emulator.Machine` loads it and calls into it. `defines` are written NAME or NAME=VALUE.
    A name in `keep` that no source defines is not an error here. Raises CompileError, BadInput.
    """
    # Without -nostdlib on purpose: there is no libc to leave out on these targets, and the flag would also leave out
    # zig's runtime library, which has the division, memcpy and memset that the compiler calls by itself.
    roots = [f"-Wl,-u,{symbol}" for symbol in keep] + [f"-Wl,-e,{symbol}" for symbol in keep[:1]]
    command = [*_cross_command(core, out.parent, include, defines), "-static", "-Wl,--gc-sections", *roots]
    _compile(command, sources, out, seconds=seconds)


def compile_object(core: Core, source: Path, out: Path, *, include: Path, defines: Sequence[str] = ()) -> None:
    """Compiles one source without linking, as `compile_core` would, to size it. Raises CompileError, BadInput."""
    _compile([*_cross_command(core, out.parent, include, defines), "-c"], [source], out)


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


def invoke(command: Sequence[str], seconds: int | None = None, folder: Path | None = None) -> None:
    """Runs a compiler in `folder`, or where this process is.

    Raises CompileError where it fails, CompilerStopped where it does not end or lacks memory, BadInput where the disk
    is full.
    """
    environment = os.environ | {"LC_ALL": "C"}  # messages in English, for CompileError to find "error:" in them
    places = [tempfile.gettempdir()] if folder is None else [str(folder)]
    if "ziglang" in command:
        cache = str(cache_folder("zig"))
        environment |= {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        places.append(cache)
    try:
        done = process.run(command, seconds=seconds or SECONDS, environment=environment, folder=folder)
    except process.Stopped as error:
        raise CompilerStopped(str(error)) from None
    except OSError as error:  # it is no program of this machine
        raise CompileError(f"{command[0]}: cannot be run ({error.strerror})") from None
    if done.code:
        _check_room(places)
        said = done.err.decode(errors="replace")
        if _NO_MEMORY.search(said):
            raise CompilerStopped(f"{CompileError(said)}: {reading.MEMORY} sets how many GiB it may take")
        raise CompileError(said)


def _check_room(places: Iterable[str]) -> None:
    """Raises BadInput where a compiler has no room for what it writes: it may say so, or nothing, or anything else."""
    for place in places:
        free = shutil.disk_usage(place).free
        if free < _ROOM:
            raise BadInput(
                f"{place}: cannot be written (a compiler failed here, where only {free:,} bytes are free); "
                "make room, or set TMPDIR or QUANTAL_CACHE to another folder"
            )


def _compile(
    command: Sequence[str], sources: Sequence[Path], out: Path, *, flags: Sequence[str] = (), seconds: int | None = None
) -> None:
    """Makes `out` of `sources`. Zig reads names of files in what it writes, but not every name: it gets short ones."""
    folder = out.parent if "ziglang" in command else None
    names = [_name(source, folder) for source in sources]
    invoke([*command, *names, "-o", _name(out, folder), *flags], seconds, folder)


def _name(path: Path, folder: Path | None) -> str:
    """What `path` is called by a program that runs in `folder`."""
    if folder is None:
        return str(path)
    path, folder = path.absolute(), folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _host_command(variable: str, name: str, what: str, seconds: int | None) -> list[str]:
    if chosen := os.environ.get(variable, "").strip():
        command = _words(chosen, variable)
        if fault := _fault(tuple(command), name, seconds):
            raise BadInput(f"{variable}: {chosen!r} does not compile ({fault}); unset it to use `{name}`, or zig's")
        return command
    found = shutil.which(name)
    fault = None if found is None else _fault((found,), name, seconds)
    if found and fault is None:
        return [found]
    if importlib.util.find_spec("ziglang"):
        if fault is not None:
            _say_once(f"quantal: {found} does not compile ({fault}): zig's {what} takes its place")
        return _zig_command(name)
    absent = f"`{name}` is not on PATH" if fault is None else f"{found} does not compile ({fault})"
    raise BadInput(f"no {what}: {absent}, and there is no ziglang package: {INSTALL}")


def _words(command: str, variable: str) -> list[str]:
    """A command as a shell would read it; a path may hold spaces where it is a program as it stands."""
    try:
        return [command] if shutil.which(command) else shlex.split(command)
    except ValueError as error:
        raise BadInput(f"{variable}: {command!r} is no command ({error})") from None


@functools.cache
def _fault(command: tuple[str, ...], name: str, seconds: int | None) -> str | None:
    """What the compiler complains of in a program that is known to be good, if anything: of its own headers, mostly."""
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        source = Path(folder) / ("good.c" if name == "cc" else "good.cpp")
        scratch(source, '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n')
        made = Path(folder) / "good.exe"  # Windows wants the ending
        try:
            _compile(command, [source], made, seconds=seconds)
        except CompileError as error:
            return str(error)
        return None if made.exists() else "it makes no program"


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def _zig_command(name: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", name]


def _cross_command(core: Core, folder: Path, include: Path, defines: Sequence[str]) -> list[str]:
    """The compiler for a core, which is to run in `folder`."""
    require("ziglang")
    target = ["-target", core.target, *core.flags]
    quoted = f"-iquote{_name(include, folder)}"
    return [*_zig_command("cc"), *target, *_CORE_FLAGS, quoted, *(f"-D{define}" for define in defines)]


def cache_folder(name: str) -> Path:
    """A folder of our own for what compilers make, which several processes may share. `QUANTAL_CACHE` moves it.

    What lies there is loaded and run, so it must be this user's, and nobody else may write in it. Raises BadInput.
    Zig, which locks what it writes, keeps the runtime library of each core there (some 5 seconds a core to build).
    """
    if override := os.environ.get("QUANTAL_CACHE"):
        candidates = [Path(override).resolve()]
    else:
        shared = Path(tempfile.gettempdir()) / f"quantal-{portable.user()}"
        candidates = [Path(os.path.expanduser("~")).resolve() / ".cache" / "quantal", shared]
    for candidate in candidates:
        cache = candidate / name
        try:
            candidate.parent.mkdir(parents=True, exist_ok=True)
            for folder in (candidate, cache):
                folder.mkdir(mode=0o700, exist_ok=True)
            if portable.own(candidate) and portable.own(cache) and os.access(cache, os.W_OK):
                return cache
        except OSError:
            continue
    raise BadInput(
        f"{candidates[-1]}: no place for the compiler's cache: expected a folder of yours "
        "in which nobody else may write; set QUANTAL_CACHE to one"
    )
