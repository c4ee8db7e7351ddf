"""Where tests stand and how long a file may be: nobody imports from a test module, and a file holds one concept."""

from pathlib import Path

import pytest

from support.sources import ROOT, imports

TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = sorted(
    path
    for folder in ("quantal", "qat", "export", "templates", "benchmarks", "golden")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".j2", ".c", ".h") and "build" not in path.parts
)
LONGEST, LONGEST_OF_TESTS = 400, 500

# The files that are longer still, and how long each may be. It only shrinks.
LONGER = {
    "benchmarks/train_step.py": 416,
    "qat/engine/adjoint.py": 406,
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_nobody_imports_from_a_test_module(path: Path) -> None:
    parts = {part for module in imports(path) for part in module.split(".")}
    assert {part for part in parts if part.startswith("test_") or part in ("tests", "conftest")} == set()


def test_every_test_module_stands_in_a_folder_and_has_a_name_of_its_own() -> None:
    modules = [path for path in TESTS if path.name.startswith("test_")]
    assert {path.parent.parent for path in modules} == {ROOT / "tests"}
    assert len({path.name for path in modules}) == len(modules)


def test_no_file_is_longer_than_it_may_be() -> None:
    lines = {name(path): length(path) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > LONGER.get(path, LONGEST)} == {}
    assert {path for path in LONGER if lines.get(path, 0) <= LONGEST} == set(), "no longer needed in LONGER"
    assert {name(path): count for path in TESTS if (count := length(path)) > LONGEST_OF_TESTS} == {}
