"""What one system has and another has not: what is missing elsewhere is taken away here."""

import ast
import os
import sys
from pathlib import Path

import pytest

from quantal.export.base import portable
from support.commands import NETWORK, program
from support.sources import PATHS, imports

MISSING = ("resource", "fcntl", "pwd", "grp", "termios", "posix_ipc")  # on Windows
ELSEWHERE = f"""
import sys, os
for name in {MISSING}:
    sys.modules[name] = None
for name in ("getuid", "geteuid", "getgid", "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
from quantal.export.cli.main import main
for command in sys.argv[1:]:
    sys.argv = ["quantal", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
"""
COMMANDS = (
    "train --network net.toml --out run",
    "prune run --keep 6 --out pruned",
    "export run --out build",
    "verify build --run run --on simulator --on c-host",
    "cost build --core cortex-m0",
)


def test_every_command_runs_where_modules_of_unix_are_missing(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(NETWORK)
    done = program(*COMMANDS, main=ELSEWHERE, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("test accuracy")  # nobody says how much memory it took
    assert "cortex-m0" in done.out


def test_no_other_module_asks_which_system_this_is() -> None:
    own = {"getuid", "geteuid", "sched_getaffinity", "getrusage", "umask"}
    for module, path in PATHS.items():
        if module == "export.base.portable":
            continue
        assert not imports(path) & {*MISSING, "signal"}, module
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not asked & own, module


def test_memory_and_processors_are_counted() -> None:
    pytest.importorskip("resource")
    assert 2**20 < portable.peak_memory() < 2**40
    assert 1 <= portable.processors() <= (os.cpu_count() or 1)


def test_where_nobody_counts_memory_it_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert portable.peak_memory() == 0


def test_a_folder_is_ones_own_where_nobody_else_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, link, file = tmp_path / "folder", tmp_path / "link", tmp_path / "file"
    folder.mkdir()
    file.write_text("")
    link.symlink_to(folder)
    for mode, own in ((0o700, True), (0o755, True), (0o775, False), (0o702, False), (0o1777, False)):
        folder.chmod(mode)
        assert portable.own(folder) == own, oct(mode)
    folder.chmod(0o700)
    assert not portable.own(link)
    assert not portable.own(file)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert not portable.own(folder)
    monkeypatch.delattr(os, "getuid")
    assert portable.own(folder)
    assert not portable.own(file)
