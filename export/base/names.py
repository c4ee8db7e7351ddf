"""Every name in what is emitted: made here, and checked here.

People name a network, its layers, their states and matrices. What is emitted joins these names with others' and with
its own: a layer's state is a field of a C struct, a network a prefix of functions, of macros and of files. Names are of
lower case, so that their upper case in macros and constants tells them apart as well.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quantal.export.base.errors import BadInput

MOST = 32
"""Letters of a name that someone chose."""
MOST_MADE = MOST + len("_delay4096")
"""Letters of a layer's name, those included that are made here."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")  # C++ keeps every name with two underscores in a row for itself
_KEYWORDS = frozenset(
    """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char class co_await co_return co_yield compl
    concept const const_cast consteval constexpr constinit continue decltype default delete do double dynamic_cast else
    enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept not
    not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires restrict return short
    signed sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef
    typeid typename typeof typeof_unqual union unsigned using virtual void volatile while xor xor_eq
    """.split()
)
# Alone, a name may be a macro or a keyword of some compiler; as a part of another it is none.
NEVER_ALONE = frozenset(
    """
    arm avr bit cdecl complex data daylight environ errno far hpux huge i386 idata imaginary interface interrupt
    linux m68k mips mipsel near noreturn pascal pdata pdp11 pic pixel powerpc ppc sbit sfr sh small sparc spe
    stderr stdin stdout sun timezone unix vax vector win32 xdata
    """.split()
)
_HARNESS = "harness"  # with which the test program's own symbols begin

# NAME.h beside a program's sources is found before the system's header of that name, by #include <NAME.h> too.
_HEADERS = {
    "the C standard": """
        assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
        stdbit stdbool stdckdint stddef stdint stdio stdlib stdmchar stdnoreturn string tgmath threads time uchar wchar
        wctype
    """,
    "POSIX": """
        aio cpio devctl dirent dlfcn endian fcntl fmtmsg fnmatch ftw glob grp iconv langinfo libgen libintl monetary
        mqueue ndbm netdb nl_types poll pthread pwd regex sched search semaphore spawn strings stropts syslog tar
        termios trace ucontext ulimit unistd utime utmp utmpx varargs wait wordexp
    """,
    "a C library or compiler": """
        alloca ansidecl arm_acle arm_fp16 arm_mve arm_neon availability byteswap cdefs conio corecrt cpuid crt_externs
        crtdefs curses direct dos elf err error execinfo features fts getopt immintrin intrin io libio link malloc mem
        memory newlib obstack omp paths printf process quadmath reent resolv runetype sal share stdfix sysexits tchar
        term unwind vadefs values vcruntime windows xlocale ycheck yvals yvals_core
    """,
}
_SYSTEM = {name: source for source, names in _HEADERS.items() for name in names.split()}
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


# ---- what people choose


def check_identifier(name: str, where: str, most: int = MOST) -> str:
    """The name, if C, C++ and Python take it as an identifier everywhere quantal uses it. Raises BadInput else."""
    if not _NAME.fullmatch(name) or len(name) > most or name in _KEYWORDS:
        shown = repr(name if len(name) <= 40 else name[:37] + "...")
        raise BadInput(
            f"{where}: expected a C identifier: a-z, 0-9 and single underscores between them, at most {most} long, no "
            f"keyword, got {shown}"
        )
    return name


def check_network(name: str, where: str) -> str:
    """The network's name, if its files and functions shadow none of others. Raises BadInput else."""
    check_identifier(name, where)
    why = None
    if name in _SYSTEM:
        why = f"{name}.h is a header of {_SYSTEM[name]}, which programs would no longer find"
    elif name in _DEVICES:
        why = f"{name}.h is a device on Windows, not a file"
    elif name == _HARNESS:
        why = f"the test program's own names begin with {_HARNESS}"
    elif name.endswith("_encoder") or "priv" in name.split("_")[1:]:
        why = "another network's own functions could be called so in the same firmware"
    if why:
        raise BadInput(f"{where}: {name!r}: {why}; choose another name")
    return name


# ---- layers that are made beside those of the configuration


def current(layer: str) -> str:
    """What a layer's current is called, where others add it."""
    return f"{layer}_current"


def relay(source: str, delay: int) -> str:
    """What a layer's outputs are called so many steps late."""
    return f"{source}_delay{delay}" if delay else source


def check_layers(chosen: Mapping[str, str], made: Mapping[str, str]) -> None:
    """Raises BadInput where a chosen name is one that is made.

    chosen: layer → the place to name in the message; made: layer → what it is, in words.
    """
    for name, where in chosen.items():
        if name in made:
            raise BadInput(f"{where}: {name!r} is taken: {made[name]} is called so; choose another name")


# ---- fields and private names


def record(layer: str, state: str) -> str:
    """A state, or a layer's output, in traces and vectors, in ONNX and in the simulator."""
    return f"{layer}.{state}"


def field(record: str) -> str:
    """The same in the C struct."""
    return record.replace(".", "_")


def ring(record: str) -> str:
    """All that is kept of a state whose values of several steps are kept."""
    return f"{record} of all steps"


def ring_index(field: str) -> str:
    """The field that says where in such a ring the oldest are."""
    return f"{field}_at"


def sums(layer: str) -> str:
    """The member of the scratch memory that holds a layer's products."""
    return f"{layer}_sums"


def private(network: str, number: int, layer: str) -> str:
    """A layer's function; its tables begin with it. The layer's number keeps them from those of other layers."""
    return f"{network}_priv_{number}_{layer}"


def constant(number: int, layer: str) -> str:
    """What the simulator's constants of a layer begin with."""
    return f"LAYER{number}_{layer.upper()}"


@dataclass(frozen=True)
class Fields:
    """What a layer has in the C struct, each "layer.state": `records`, and `rings` of what is kept of several steps."""

    records: tuple[str, ...]
    rings: tuple[str, ...]


def check_fields(layers: Iterable[Fields], where: str) -> None:
    """Raises BadInput where two fields of the struct would have one name, or one that C keeps for itself."""
    taken: dict[str, str] = {}
    for layer in layers:
        found = [(field(name), f"state {name}") for name in (*layer.records, *layer.rings)]
        found += [(ring_index(field(name)), f"the place in {name}") for name in layer.rings]
        for name, what in found:
            if name in _KEYWORDS or name.endswith("_t"):
                raise BadInput(f"{where}: {what}: C keeps the name {name} for itself; choose another")
            if name in taken:
                raise BadInput(f"{where}: {what} and {taken[name]} are both called {name} in C; choose another name")
            taken[name] = what


# ---- the header


def of_header(network: str) -> set[str]:
    """The names of types and functions in the network's header, which no variable may hide."""
    return {f"{network}_{name}" for name in ("input", "sample", "state", "encoder", *FUNCTIONS)}


FUNCTIONS = ("reset", "step", "argmax", "classify", "self_test", "encode", "encoder_reset")
"""What a program may call, after the network's name and an underscore; the last two where there is an encoder."""
