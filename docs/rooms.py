"""The rooms of the code and the arrows between them, drawn from the tables that tests/**/test_arrows.py holds true."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tables() -> dict[str, set[str]]:
    """Each room, what knows nothing first, and the rooms that it takes from."""
    (path,) = (ROOT / "tests").rglob("test_arrows.py")
    literal: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("EXPORT", "QAT"):
            literal |= eval(compile(ast.Expression(node.value), str(path), "eval"))
    return literal


def job(room: str) -> str:
    """The first line of the room's docstring: what it is for."""
    path = ROOT / room.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def picture() -> str:
    """A line a room: o in the column of each room that it takes from. All of them stand left of its own, #."""
    rooms = tables()
    width = max(map(len, rooms))
    lines = []
    for own, (room, taken) in enumerate(rooms.items()):
        marks = "".join("o" if other in taken else "#" if n == own else "." for n, other in enumerate(rooms))
        lines.append(f"{own + 1:>2} {room.ljust(width)}  {' '.join(marks[: own + 1])}")
    return "\n".join(["```text", *lines, "```"])


def jobs() -> str:
    """A row a room: what it is for."""
    return "\n".join(["| room | what stands in it |", "| --- | --- |", *(f"| `{r}` | {job(r)} |" for r in tables())])


if __name__ == "__main__":
    print(picture(), jobs(), sep="\n\n")
