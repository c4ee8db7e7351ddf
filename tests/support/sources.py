"""The source files of this project, and what each imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORTED = {"PYTHONPATH": str(ROOT / "tests")}  # for a process that imports from support


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it; our own without `quantal.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = str(node.module).removeprefix("quantal.")
            inside = {f"{module}.{alias.name}" for alias in node.names} & set(PATHS)
            found |= inside or {module}
    return found


PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("export", "qat")
    for path in (ROOT / folder).rglob("*.py")
}
