"""Programs that include a header, compiled as strictly as can be."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import CORES, compile_host
from quantal.export.build import Build
from quantal.export.run.core import machine_for

HEADERS = ("spikes", "program", "word", "levels", "codes")
BOTH = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wundef")
STRICT = (*BOTH, "-Werror")
IN_C = (*STRICT, "-std=c99", "-Wstrict-prototypes", "-Wmissing-prototypes")


def program(folder: Path, build: Build, *flags: str, **sources: str) -> Path:
    """Compiles C sources, given as NAME="text", with the build's header beside them, into a program."""
    paths = [folder / f"{name}.c" for name in sources]
    for path, text in zip(paths, sources.values(), strict=True):
        path.write_text(text)
    compile_host(paths, folder / "program", flags=[*IN_C, f"-I{build.path}", *flags])
    return folder / "program"


def output(path: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run([path, *arguments], input=stdin, capture_output=True, check=True).stdout


def implementation(name: str) -> str:
    return f'#define {name.upper()}_IMPLEMENTATION\n#define {name.upper()}_SELF_TEST\n#include "{name}.h"\n'


def numbers(values: Sequence[int] | Ints) -> str:
    return ", ".join(map(str, np.asarray(values).reshape(-1).tolist()))


def with_header(build: Build, folder: Path, text: str) -> Build:
    """A copy of the build whose header has this text."""
    copied = replace(build, path=shutil.copytree(build.path, folder))
    copied.header.write_text(text, encoding="utf-8")
    return copied


# ---- the self test


def self_test(build: Build, target: str, folder: Path) -> int:
    """What the self test returns on the host or on an emulated core."""
    if target != "host":
        with machine_for(build, CORES[target]) as machine:
            return machine.call("harness_self_test")
    name = build.network.name
    use = f'{{ static {name}_state s; printf("%lu", (unsigned long){name}_self_test(&s)); return 0; }}\n'
    text = f"{implementation(name)}#include <stdio.h>\nint main(void) {use}"
    return int(output(program(folder, build, main=text)))
