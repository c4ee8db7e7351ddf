"""The fixed part of the compiled engine is C that stands by itself: compilers and cppcheck find nothing in it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from quantal.export.base.toolchain import host_compiler, invoke

ENGINE = Path(__file__).resolve().parent.parent.parent / "templates" / "engine"
SOURCES = ("products.h", "engine.h", "whole.c")
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-O3", "-ffp-contract=off")
# Layers of the other kinds than the one whose sizes stand in the file.
SIZES = {
    "as it stands": {},
    "small and plain": {"SIZE": 7, "INPUTS": 3, "TABLES": 0, "LEVELS": 0, "RECURRENT": 0, "GIVEN": 1, "TRUNCATE": 0},
    "few levels": {"SIZE": 16, "INPUTS": 16, "TABLES": 1, "LEVELS": 4, "RECURRENT": 1, "GIVEN": 0, "TRUNCATE": 1},
}
OTHERS = {"STATES": 2, "SPIKE": 1, "DENSE_RATE": 0.5}


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("source", SOURCES)
def test_it_compiles_alone_without_a_warning(source: str, sizes: str, real: str, tmp_path: Path) -> None:
    given = SIZES[sizes] and SIZES[sizes] | OTHERS
    flags = [f"-DLAYER_{name}={value}" for name, value in given.items()] + ["-DDOUBLE"] * (real == "double")
    command = [*host_compiler(), *STRICT, *flags, "-x", "c", "-c", str(ENGINE / source)]
    invoke([*command, "-o", str(tmp_path / "made.o")])


@pytest.mark.parametrize("real", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("source", SOURCES)
def test_cppcheck_finds_nothing_in_it(source: str, real: str) -> None:
    if not shutil.which("cppcheck"):
        pytest.skip("no cppcheck here: install your system's cppcheck")
    command = ["cppcheck", "--language=c", "--std=c99", "--enable=warning,performance", "--error-exitcode=1", "--quiet"]
    done = subprocess.run([*command, f"-D{real}", str(ENGINE / source)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
