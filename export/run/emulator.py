"""Runs cross-compiled C on an emulated core, function by function, and counts its instructions and stack.

Unicorn is imported here and nowhere else: it is GPL-2 and comes with the `verify` extra only.
"""

import bisect
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from quantal.export.base.toolchain import Core, require

_PAGE = 4096
# The linker places programs from 0x10000 up. Where a call returns to lies below them, the stack far above, in what
# Armv7-M calls SRAM; the memory under the stack is not mapped, so an overflow is a fault.
_RETURN = 0x1000
_STACK = 0x2000_0000
_STACK_SIZE = 64 * 1024
_PAINT = b"\xa5"
_WORD = 4
_MOST = 10**10  # instructions of a call, where nobody says how many
_ROOM = 0x4000_0000  # what `room` gives lies from here up
_MASK = 0xFFFF_FFFF
_PATIENCE = 0.1  # seconds between looks at whether there was an interruption, where a wait is none of its own

# Unicorn's processor models. The E31 is RV32IMAC: what it has beyond `riscv32`, the compiler does not use.
_MODELS = {
    "cortex-m0": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "riscv32": "UC_CPU_RISCV32_SIFIVE_E31",
}


class EmulationError(Exception):
    """The program did what the core does not allow, or lacks what was asked for. The message is one line."""


@dataclass(frozen=True)
class Counted:
    """What a call returned and what it took."""

    result: int
    """The returned register, unsigned 32 bits."""
    instructions: int
    """Instructions issued, from the function's first to its return, callees included. Not cycles.

    Those in a Thumb IT block all count, also where their condition does not hold: the core issues them as no-ops.
    """
    stack: int
    """Bytes of stack down to the lowest one that the call changed, callees included, rounded up to a word."""


class Machine:
    """A core with a program in its memory. The program's variables live on from one call to the next."""

    def __init__(self, core: Core, elf: Path) -> None:
        """Loads a program that `toolchain.compile_core` made for `core`.

        Raises BadInput where unicorn or pyelftools is not installed, EmulationError where the program does not fit.
        """
        unicorn = require("unicorn")
        if core.thumb:
            registers, prefix = require("unicorn.arm_const"), "UC_ARM_REG_"
            # Not with UC_MODE_MCLASS, which makes every core a Cortex-M33 whatever the model set below. The model by
            # itself is the M-profile core: an M0 then refuses Thumb-2 and unaligned access, as in silicon.
            arch, mode = unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB
            names = ("SP", "LR", "PC", "R0", "R1", "R2", "R3")
        else:
            registers, prefix = require("unicorn.riscv_const"), "UC_RISCV_REG_"
            arch, mode = unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32
            names = ("SP", "RA", "PC", "A0", "A1", "A2", "A3")
        self._sp, self._link, self._pc, *self._arguments = (getattr(registers, prefix + name) for name in names)
        self._thumb = core.thumb
        self._unicorn = unicorn
        self._name = core.name
        self.engine: Any = unicorn.Uc(arch, mode)
        """Unicorn's own object, for what this class does not offer."""
        self.engine.ctl_set_cpu_model(getattr(registers, _MODELS[core.name]))
        self._thread = ThreadPoolExecutor(1)
        self._hook: int | None = None
        self._room = _ROOM
        self._visits: Counter[tuple[int, int]] = Counter()  # how often each block (address, bytes) was entered
        self._length = cache(self._count_instructions)
        self._symbols: dict[str, int] = {}
        self._functions: list[tuple[int, str]] = []  # by address, without the Thumb bit
        try:
            self._load(elf)
            self.engine.mem_map(_RETURN, _PAGE)
            self.engine.mem_map(_STACK, _STACK_SIZE)
        except unicorn.UcError as error:
            raise EmulationError(f"{self._name}: cannot load {elf}: {error}") from error

    def symbol(self, name: str) -> int:
        """The address of a function or variable as a C pointer holds it: with bit 0 set for a Thumb function."""
        try:
            return self._symbols[name]
        except KeyError:
            raise EmulationError(f"{self._name}: the program has no symbol {name}") from None

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory. Raises EmulationError where there is none."""
        try:
            return bytes(self.engine.mem_read(address, size))
        except self._unicorn.UcError as error:
            raise EmulationError(f"{self._name}: cannot read {size} bytes at {address:#x}: {error}") from error

    def write(self, address: int, data: bytes) -> None:
        """Changes memory, also what is read-only to the program. Raises EmulationError where there is none."""
        try:
            self.engine.mem_write(address, data)
        except self._unicorn.UcError as error:
            raise EmulationError(f"{self._name}: cannot write {len(data)} bytes at {address:#x}: {error}") from error

    def room(self, size: int) -> int:
        """The address of `size` bytes of further memory, zeros at first. Raises EmulationError where there is none."""
        address, pages = self._room, -(-size // _PAGE) or 1
        try:
            self.engine.mem_map(address, pages * _PAGE)
        except self._unicorn.UcError as error:
            raise EmulationError(f"{self._name}: no room for {size} bytes more: {error}") from error
        self._room += (pages + 1) * _PAGE  # with a page between them that is nobody's
        return address

    def call(self, name: str, *args: int, most: int = _MOST) -> int:
        """Calls a function with up to four arguments of at most 32 bits; returns its result as unsigned 32 bits.

        Raises EmulationError with the place in the program where it faults, a stack overflow included, or where it is
        after `most` instructions.
        """
        self._watch(False)
        return self._run(name, args, most)

    def count(self, name: str, *args: int, most: int = _MOST) -> Counted:
        """As `call`, and counts. Slower: every basic block that runs costs a call into Python."""
        self._watch(True)
        self._visits.clear()
        self.write(_STACK, _PAINT * _STACK_SIZE)
        result = self._run(name, args, most)
        used = len(self.read(_STACK, _STACK_SIZE).lstrip(_PAINT))
        return Counted(
            result,
            instructions=sum(times * self._length(*block) for block, times in self._visits.items()),
            # Pushed words may begin with the paint's own value.
            stack=-(-used // _WORD) * _WORD,
        )

    def _load(self, elf: Path) -> None:
        with elf.open("rb") as stream:
            file = require("elftools.elf.elffile").ELFFile(stream)
            for segment in file.iter_segments("PT_LOAD"):
                start, end = segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"]
                base = start // _PAGE * _PAGE
                # The linker never puts segments of different permissions on one page.
                self.engine.mem_map(base, -(-(end - base) // _PAGE) * _PAGE, self._permissions(segment["p_flags"]))
                self.engine.mem_write(start, segment.data())
            table = file.get_section_by_name(".symtab")
            strings = file.get_section(table["sh_link"]).data()
            # Not pyelftools' own iterator: the runtime library leaves thousands of local labels on RISC-V.
            for name, value, _, info, _, section in struct.iter_unpack("<IIIBBH", table.data()):
                if section and strings[name]:
                    text = strings[name : strings.index(0, name)].decode()
                    self._symbols[text] = value  # local ones come first, so that a global one of this name stays
                    if info & 0xF == 2:  # STT_FUNC
                        self._functions.append((value & ~1 if self._thumb else value, text))
        self._functions.sort()

    def _permissions(self, elf_flags: int) -> int:
        pairs = ((4, self._unicorn.UC_PROT_READ), (2, self._unicorn.UC_PROT_WRITE), (1, self._unicorn.UC_PROT_EXEC))
        return sum(permission for flag, permission in pairs if elf_flags & flag)

    def _run(self, name: str, args: tuple[int, ...], most: int) -> int:
        if len(args) > len(self._arguments):
            raise TypeError(f"{name}: {len(args)} arguments, of which registers hold {len(self._arguments)}")
        start = self.symbol(name)
        for register, value in zip(self._arguments, args, strict=False):
            self.engine.reg_write(register, value & _MASK)
        self.engine.reg_write(self._sp, _STACK + _STACK_SIZE)
        self.engine.reg_write(self._link, _RETURN | self._thumb)
        try:
            # Bit 0 of the start selects Thumb; the end is compared with the program counter, which never has it.
            self._emulate(start, most)
        except self._unicorn.UcError as error:
            raise EmulationError(f"{self._name}: {name}: {error} at {self._place()}") from error
        if self.engine.reg_read(self._pc) != _RETURN:
            when = "" if self._waits() else f"after {most:,} instructions "
            raise EmulationError(f"{self._name}: {name}: stopped {when}at {self._place()}")
        return int(self.engine.reg_read(self._arguments[0])) & _MASK

    def _emulate(self, start: int, most: int) -> None:
        """Runs in a thread beside this one, which an interruption would otherwise reach only at the core's end."""
        running = self._thread.submit(self.engine.emu_start, start, _RETURN, count=most)
        try:
            while not wait((running,), _PATIENCE).done:
                pass
        except BaseException:
            while not running.done():  # it may not have begun yet
                self.engine.emu_stop()
                wait((running,), _PATIENCE)
            raise
        running.result()

    def _waits(self) -> bool:
        """Whether the last instruction was one that waits for an interrupt."""
        pc = int(self.engine.reg_read(self._pc))
        codes = (0xBF20, 0xBF30) if self._thumb else (0x10500073,)  # wfe, wfi
        size = 2 if self._thumb else 4
        try:
            return int.from_bytes(self.engine.mem_read(pc - size, size), "little") in codes
        except self._unicorn.UcError:
            return False

    def _place(self) -> str:
        """The program counter and the function before it."""
        pc = int(self.engine.reg_read(self._pc))
        before = bisect.bisect(self._functions, (pc, "\U0010ffff")) - 1
        if before < 0:
            return f"pc {pc:#x}"
        address, name = self._functions[before]
        return f"pc {pc:#x} ({name}+{pc - address:#x})"

    def _watch(self, blocks: bool) -> None:
        """Has `_visits` kept, or not, from here on."""
        if blocks == (self._hook is not None):
            return
        if self._hook is None:
            self._hook = self.engine.hook_add(self._unicorn.UC_HOOK_BLOCK, self._enter)
        else:
            self.engine.hook_del(self._hook)
            self._hook = None
        # Unicorn puts hooks into the code that it translates; what it translated before would stay as it is.
        self.engine.ctl_flush_tb()

    def _enter(self, _engine: Any, address: int, size: int, _data: Any) -> None:
        self._visits[address, size] += 1

    def _count_instructions(self, address: int, size: int) -> int:
        """Instructions in a block: both instruction sets tell one of 4 bytes from one of 2 by its first half."""
        code = self.read(address, size)
        at = count = 0
        while at < size:
            half = int.from_bytes(code[at : at + 2], "little")
            wide = half >= 0xE800 if self._thumb else half & 3 == 3
            at += 4 if wide else 2
            count += 1
        return count
