"""Which compiler is taken, what is said of one that does not work, and whose its cache is."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from quantal.export.base import portable, toolchain
from quantal.export.base.errors import BadInput
from quantal.export.base.toolchain import CORES, CompileError, compile_host, compile_object
from support.messages import one_line


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `cc` and a `c++` on PATH that find no headers, and nothing else on it."""
    for name in ("cc", "c++"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 'stdio.h: fatal error: no such file' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "bin"


def test_a_compiler_that_does_not_compile_makes_room_for_zigs_and_that_is_said_once(
    broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zig = [sys.executable, "-m", "ziglang"]
    assert [toolchain.host_compiler() for _ in range(3)] == 3 * [[*zig, "cc"]]
    assert [toolchain.host_cxx_compiler() for _ in range(3)] == 3 * [[*zig, "c++"]]
    fault = "does not compile (stdio.h: fatal error: no such file)"
    assert capsys.readouterr().err.splitlines() == [
        f"quantal: {broken / 'cc'} {fault}: zig's C compiler takes its place",
        f"quantal: {broken / 'c++'} {fault}: zig's C++ compiler takes its place",
    ]
    monkeypatch.setitem(sys.modules, "ziglang", None)
    for compiler in (toolchain.host_compiler, toolchain.host_cxx_compiler):
        with pytest.raises(BadInput) as error:
            compiler()
        one_line(error, fault, "pip install 'quantal[verify]'")


def test_what_is_no_program_of_this_machine_is_no_compiler(broken: Path) -> None:
    (broken / "cc").write_bytes(b"\x7fELF of another processor")
    assert toolchain.host_compiler() == [sys.executable, "-m", "ziglang", "cc"]


def test_cc_and_cxx_choose_the_compiler_and_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = toolchain.host_compiler()
    named = tmp_path / "a folder" / "my cc"
    named.parent.mkdir()
    named.write_text(f'#!/bin/sh\nexec {shlex.join(found)} "$@"\n')
    named.chmod(0o755)
    for variable, compiler in (("CC", toolchain.host_compiler), ("CXX", toolchain.host_cxx_compiler)):
        monkeypatch.setenv(variable, str(named))  # a path with spaces
        assert compiler() == [str(named)]
        monkeypatch.setenv(variable, f"'{named}' -DADD='4 + 5'")
        assert compiler() == [str(named), "-DADD=4 + 5"]
    source, out = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text('#include <stdio.h>\nint main(void) { printf("%d\\n", ADD); return 0; }\n')
    compile_host([source], out)
    assert subprocess.run([out], capture_output=True, text=True, check=True).stdout == "9\n"


@pytest.mark.parametrize("chosen", ["nowhere-cc", "cc -O2", "'cc"])
def test_a_cc_that_does_not_work_is_refused_for_it_was_asked_for(
    chosen: str, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, compiler in (("CC", toolchain.host_compiler), ("CXX", toolchain.host_cxx_compiler)):
        monkeypatch.setenv(variable, chosen)
        with pytest.raises(BadInput) as error:
            compiler()
        one_line(error, f"{variable}: {chosen!r}" if "'" not in chosen else f"{variable}: ")


def test_a_cc_that_succeeds_without_making_a_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = tmp_path / "idle-cc"
    idle.write_text("#!/bin/sh\nexit 0\n")
    idle.chmod(0o755)
    monkeypatch.setenv("CC", str(idle))
    with pytest.raises(BadInput) as error:
        toolchain.host_compiler()
    one_line(error, "CC: ", "idle-cc", "it makes no program")


def test_the_target_is_this_processor_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTAL_TARGET", raising=False)
    assert toolchain.target() == "native"
    monkeypatch.setenv("QUANTAL_TARGET", "x86-64-v3")
    assert toolchain.target() == "x86-64-v3"


def compilers() -> list[list[str]]:
    """Those at hand: this machine's, and zig's."""
    return [toolchain.host_compiler(), [sys.executable, "-m", "ziglang", "cc"]]


@pytest.mark.parametrize("which", range(2))
def test_linkers_say_what_is_missing(which: int, tmp_path: Path) -> None:
    """And not that they have failed, which is the last thing they say."""
    source = tmp_path / "main.c"
    source.write_text("int absent(int);\nint main(void) { return absent(1); }\n")
    with pytest.raises(CompileError, match=r"undefined (reference|symbol).*absent") as error:
        toolchain.invoke([*compilers()[which], str(source), "-o", str(tmp_path / "main")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "/usr/bin/ld: /tmp/x.o: in function `main':\nmain.c:(.text+0x5): undefined reference to `absent'\n"
            "/usr/bin/ld: main.c:(.text+0x9): undefined reference to `more'\n"
            "collect2: error: ld returned 1 exit status",
            "main.c:(.text+0x5): undefined reference to `absent'",
        ),
        (
            'Undefined symbols for architecture arm64:\n  "_absent", referenced from:\n      _main in main.o\n'
            "ld: symbol(s) not found for architecture arm64\n"
            "clang: error: linker command failed with exit code 1 (use -v to see invocation)",
            'Undefined symbols for architecture arm64: "_absent", referenced from:',
        ),
        (
            "ld: b.o: multiple definition of `f'; a.o: first defined here\ncollect2: error: ld returned 1 exit status",
            "ld: b.o: multiple definition of `f'; a.o: first defined here",
        ),
        ("/usr/bin/ld: cannot find -lm\ncollect2: error: ld returned 1 exit status", "/usr/bin/ld: cannot find -lm"),
        ("a.c:3:1: warning: w\na.c:4:2: error: e\nb.c:1:1: error: f", "a.c:4:2: error: e"),
        ("/tmp/a.s:5: Error: no such instruction: `vaddps'", "/tmp/a.s:5: Error: no such instruction: `vaddps'"),
        ("collect2: error: ld returned 1 exit status", "collect2: error: ld returned 1 exit status"),
        ("", "no message"),
    ],
)
def test_the_line_that_tells_is_what_is_said(said: str, told: str) -> None:
    assert str(CompileError(said)) == told


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAL_CACHE", str(tmp_path / "own"))
    source = tmp_path / "a.c"
    source.write_text("int f(void) { return 1; }\n")
    compile_object(CORES["riscv32"], source, tmp_path / "a.o", include=tmp_path)
    assert any((tmp_path / "own" / "zig").iterdir())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="QUANTAL_CACHE"):
        compile_object(CORES["riscv32"], source, tmp_path / "a.o", include=tmp_path)


def test_the_cache_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in it is loaded: where another may have put it, it is not taken."""
    monkeypatch.delenv("QUANTAL_CACHE", raising=False)
    home, shared = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    shared.mkdir(mode=0o1777)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(shared))
    kept = home / ".cache" / "quantal"
    own = shared / f"quantal-{os.getuid()}"
    assert toolchain.cache_folder("engine") == kept / "engine"
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (kept, kept / "engine")] == [0o700, 0o700]
    assert not own.exists()
    for open_to_others in (kept / "engine", kept):
        open_to_others.chmod(0o770)
        assert toolchain.cache_folder("engine") == own / "engine"
        open_to_others.chmod(0o700)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (own, own / "engine")] == [0o700, 0o700]

    shutil.rmtree(home)
    home.write_text("")  # nothing can be kept at home, as of a service
    assert toolchain.cache_folder("engine") == own / "engine"
    (own / "engine").chmod(0o722)
    refused(own)
    (own / "engine").chmod(0o700)
    with monkeypatch.context() as another:
        another.setattr(os, "getuid", lambda: own.stat().st_uid + 1)
        another.setattr(portable, "user", lambda: str(own.stat().st_uid))
        refused(own)
    own.rename(shared / "mine")
    own.symlink_to(shared / "mine")  # by another, to what is mine
    refused(own)


def refused(folder: Path) -> None:
    with pytest.raises(BadInput) as error:
        toolchain.cache_folder("engine")
    one_line(error, str(folder), "a folder of yours", "QUANTAL_CACHE")


def test_a_cache_that_is_chosen_may_be_reached_by_a_link_but_not_be_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, link = tmp_path / "chosen", tmp_path / "link"
    chosen.mkdir(mode=0o700)
    link.symlink_to(chosen)
    monkeypatch.setenv("QUANTAL_CACHE", str(link))
    assert toolchain.cache_folder("engine") == chosen / "engine"
    chosen.chmod(0o777)
    refused(chosen)
