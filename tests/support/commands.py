"""`quantal` run in this process or in one of its own, what it leaves, and what it refuses."""

import contextlib
import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from quantal.export.cli import main

MAIN = "from quantal.export.cli.main import main; main()"

NETWORK = """
[task]
name = "digits"

[encoder]
steps = 4

[[layer]]
name = "hidden"
size = 12
recurrent = true

[[layer]]
name = "readout"
size = 10
neuron = "li"

[training]
epochs = 1
"""


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def quantal(*args: object) -> Done:
    """Runs `quantal` in this process. What would be a traceback, or a warning, is an error of the test."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["quantal", *map(str, args)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # numpy forgets to close what is no archive
        try:
            main.main()
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())


def program(*args: object, main: str = MAIN, cwd: Path | None = None) -> Done:
    """Runs `quantal` as a program of its own."""
    command = [sys.executable, "-c", main, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def succeed(*args: object) -> Done:
    """Runs `quantal`, which must end well and complain of nothing."""
    done = quantal(*args)
    assert (done.code, done.err) == (0, ""), done.err
    return done


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden or not: the bytes of its files by relative path, None for a folder."""
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in folder.rglob("*")}


CHECKPOINT = "run/checkpoint.safetensors"
EXPORT, VERIFY, COST = "export run --out new", "verify build --on interpreter", "cost build --core cortex-m0"
RESUME, TRAIN = "train --resume --epochs 2 --out run", "train --network net.toml --out new"


def refused(folder: Path, command: str, *words: str, run: Callable[..., Any] = quantal) -> None:
    """`quantal command` in the current folder refuses with a line that holds all the words, and leaves no trace."""
    before = contents(folder)
    done = run(*command.split(" "))
    assert done.code == 2, ascii(done.err)
    assert done.out == "" or command.startswith("demo")
    assert len(done.err.splitlines()) == 1, ascii(done.err)
    assert done.err.startswith("quantal: ")
    for word in words:
        assert word in done.err, ascii(done.err)
    after = contents(folder)
    assert {name for name in {*before, *after} if before.get(name, "") != after.get(name, "")} == set()
