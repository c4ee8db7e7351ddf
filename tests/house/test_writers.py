"""Nobody but export/base/files.py writes a file, and text is read as UTF-8 everywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support.sources import ROOT

# ---- nobody else writes

WRITING = {
    *("write_text", "write_bytes", "tofile", "save_file", "savez", "savez_compressed", "savetxt", "savefig"),
    *("touch", "mkstemp", "NamedTemporaryFile"),
}
OPENING = {"open", "fdopen", "memmap"}
READING = {"r", "rb", "r+b"}  # what is to be locked is open for writing
FOLDERS = {"Build.open", "Run.open"}
BINARY = {"rb", "r+b", "wb", "xb", "ab"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node


def literals(call: ast.Call) -> set[str]:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    constants = [node.value for value in given for node in ast.walk(value) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


def writes(path: Path) -> list[str]:
    """The calls in a Python file that write a file. Into memory, which goes by that name, all may."""
    found = []
    for name, call in calls(path):
        into_memory = bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id == "memory"
        mode = {word for word in literals(call) if word and set(word) <= set("rwxabt+")} - READING
        if (name in WRITING and not into_memory) or (name in OPENING and mode):
            found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {name}")
    return found


DAMAGING = {
    ROOT / "benchmarks" / name for name in ("fuzz_readers.py", "hostile.py")
}  # they write what no reader may take
PYTHON = [
    path for folder in ("export", "qat", "benchmarks") for path in (ROOT / folder).rglob("*.py") if path not in DAMAGING
]
WRITER = ROOT / "export" / "base" / "files.py"


def test_no_other_module_writes_a_file() -> None:
    assert len(PYTHON) > 60
    assert len(writes(WRITER)) == 4
    assert [line for path in PYTHON if path != WRITER for line in writes(path)] == []


def test_text_is_read_as_utf_8_everywhere() -> None:
    """Python's default is that of the locale."""
    found = [
        (f"{path.relative_to(ROOT)}:{call.lineno}", literals(call))
        for path in PYTHON
        for name, call in calls(path)
        if name == "read_text" or (name == "open" and literals(call) and ast.unparse(call.func) not in FOLDERS)
    ]
    assert len(found) > 10
    assert [where for where, words in found if not {"utf-8", *BINARY} & words] == []
