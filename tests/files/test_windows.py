"""What other systems do otherwise, imitated: Windows' text files and streams, and what Python lacks there."""

import ast
import builtins
import io
import os
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from quantal.export.base.toolchain import compile_host
from quantal.export.emit.c.memory import input_word, record_dtype
from quantal.export.ir import interpret
from quantal.export.run.host import split_records
from support.commands import contents, succeed
from support.networks import input_for, write
from support.programs import random_program
from support.sources import ROOT

# ---- text files


@pytest.fixture
def windows_text(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files are opened as on Windows: text in its code page, with two bytes at the end of a line."""
    ordinary = io.open
    opened: list[Path] = []

    def opening(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
        *more: Any, **options: Any,
    ) -> Any:  # fmt: skip
        if "b" not in mode:
            encoding = "cp1252" if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and mode[0] != "r" else newline
        opened.append(file)
        return ordinary(file, mode, buffering, encoding, errors, newline, *more, **options)

    monkeypatch.setattr(io, "open", opening)
    monkeypatch.setattr(builtins, "open", opening)
    monkeypatch.setattr(os, "linesep", "\r\n")
    return opened


def test_the_imitation_is_one(windows_text: list[Path], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("é\n")
    assert (tmp_path / "x").read_bytes() == b"\xe9\r\n"


def test_all_that_is_written_is_the_same_on_windows(place: Path, request: pytest.FixtureRequest) -> None:
    text = Path("net.toml").read_text(encoding="utf-8")
    Path("net.toml").write_text(text.replace('name = "hidden"', 'name = "hidden"  # é', 1), encoding="utf-8")
    full = ("--weights", "float", "--states", "float", "--epochs", 1)
    commands: list[tuple[Any, ...]] = [
        ("train", "--network", "net.toml", *full, "--out", "{}/full"),
        ("prune", "{}/full", "--keep", 5, "--out", "{}/pruned"),
        ("train", "--network", "net.toml", "--epochs", 1, "--teacher", "{}/full", "--out", "{}/run"),
        ("train", "--resume", "--epochs", 2, "--out", "{}/run"),
        ("export", "{}/run", "--out", "{}/build"),
        ("verify", "{}/build", "--run", "{}/run", "--on", "interpreter", "--on", "simulator", "--on", "c-host"),
    ]

    def made(folder: str) -> dict[str, bytes | None]:
        for command in commands:
            succeed(*(str(word).format(folder) for word in command))
        return contents(Path(folder))

    expected = made("here")
    opened = request.getfixturevalue("windows_text")
    assert made("there") == expected
    assert opened
    assert not any(
        b"\r\n" in content
        for name, content in expected.items()
        if content and name.endswith((".h", ".c", ".py", ".json", ".jsonl", ".toml"))
    )


# ---- the test program's streams

WINDOWS = {
    "fcntl.h": "#define _O_BINARY 0x8000\n",
    "io.h": "#define _setmode imitated_setmode\n#define _fileno imitated_fileno\n",
    "windows_streams.h": """
#include <stdio.h>
static int binary_streams = 0;
static int imitated_fileno(FILE *stream) { return stream == stdin ? 1 : 2; }
static int imitated_setmode(int stream, int mode) { return mode == 0x8000 ? (binary_streams |= stream) : -1; }
/* A stream that is still text ends at a byte 26, and gets a byte 13 before each byte 10. */
static size_t imitated_fread(void *to, size_t size, size_t count, FILE *stream)
{
    const unsigned char *byte = (const unsigned char *)to;
    const size_t got = fread(to, size, count, stream);
    size_t k;
    for (k = 0; k < got * size; ++k) {
        if (!(binary_streams & 1) && byte[k] == 26) {
            return 0;
        }
    }
    return got;
}
static size_t imitated_fwrite(const void *from, size_t size, size_t count, FILE *stream)
{
    const unsigned char *byte = (const unsigned char *)from;
    size_t k;
    for (k = 0; k < size * count; ++k) {
        if (!(binary_streams & 2) && byte[k] == 10) {
            fputc(13, stream);
        }
        fputc(byte[k], stream);
    }
    return count;
}
#define fread imitated_fread
#define fwrite imitated_fwrite
""",
}


def test_the_test_program_reads_and_writes_bytes_on_windows(tmp_path: Path) -> None:
    program = next(made for made in map(random_program, range(50)) if made.input_lo <= 10 and made.input_hi >= 26)
    x = input_for(program, 40, 9)
    x[0], x[1] = 10, 26
    build = write(program, tmp_path / "build", "model", x)
    for name, text in WINDOWS.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    flags = [f"-I{tmp_path}", "-include", str(tmp_path / "windows_streams.h"), "-D_WIN32"]
    compile_host([build.test_program], tmp_path / "model.exe", flags=flags)
    given = x.astype(input_word(build.network).dtype).tobytes()
    assert {10, 26} <= set(given)
    done = subprocess.run([tmp_path / "model.exe", str(x.shape[1])], input=given, capture_output=True, check=True)
    assert {10, 26} <= set(done.stdout)
    trace = split_records(done.stdout, record_dtype(build.proven), *x.shape[:2])
    for name, values in interpret.run(build.network, x).items():
        np.testing.assert_array_equal(trace[name], values, err_msg=name)


# ---- what Python lacks there

ABSENT = {
    "os": {
        *(
            "fork",
            "forkpty",
            "getuid",
            "geteuid",
            "getgid",
            "getegid",
            "getgroups",
            "chown",
            "lchown",
            "fchown",
            "fchmod",
        ),
        *("sched_getaffinity", "sched_setaffinity", "uname", "setsid", "killpg", "getpgid", "mkfifo", "statvfs"),
        *("nice", "getloadavg", "sysconf", "setpgrp", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "register_at_fork"),
    },
    "signal": {
        "SIGKILL",
        "SIGPIPE",
        "SIGALRM",
        "SIGXFSZ",
        "SIGHUP",
        "SIGUSR1",
        "alarm",
        "setitimer",
        "pthread_sigmask",
    },
}


def unguarded(path: Path) -> list[str]:
    """What a file takes of `os` and `signal` that Windows lacks, but where an `if hasattr` around it asks for it."""
    found = []

    def visit(node: ast.AST, asked: frozenset[str]) -> None:
        if isinstance(node, (ast.If, ast.IfExp)):
            words = {n.value for n in ast.walk(node.test) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            asked = asked | words
        of = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
        if of and node.attr in ABSENT.get(of, set()) - asked:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {of}.{node.attr}")
        for child in ast.iter_child_nodes(node):
            visit(child, asked)

    visit(ast.parse(path.read_text(encoding="utf-8")), frozenset())
    return found


def test_what_windows_lacks_is_asked_for_first() -> None:
    paths = [path for folder in ("export", "qat") for path in (ROOT / folder).rglob("*.py")]
    assert [line for path in paths for line in unguarded(path)] == []
    source = "import os\nif hasattr(os, 'chown'):\n    os.chown\nos.fork()\n"
    with mock.patch.object(Path, "read_text", return_value=source):
        assert unguarded(ROOT / "x") == ["x:4: os.fork"]
