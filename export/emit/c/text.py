"""C as text: blocks of lines, comments, and lines of no more than WIDTH characters, whatever names are in them."""

import re
import textwrap

from quantal.export.base.word import Word

WIDTH = 100
_BREAKS = tuple(
    re.compile(place)
    for place in (r"(?<=[,;]) |(?= (?:[-+*/<>=!&|?:]{1,2}) )|(?<=\w)(?= \")", r"(?<=\w\()(?=\w)| (?=\w)")
)
"""Where a line may go on in another: better places first, and of these one in the fewest brackets, the last."""


def c_type(word: Word) -> str:
    """The fixed-width C type of a word."""
    return f"{'' if word.signed else 'u'}int{word.bits}_t"


def literal(value: int) -> str:
    """A constant: the least of 32 bits is none in C, but the difference of two."""
    return str(value) if value > -(2**31) else "(-2147483647 - 1)"


def block(head: str, *lines: str) -> list[str]:
    """`head { lines }`, the lines indented."""
    return [f"{head} {{", *(f"    {line}" for line in lines), "}"]


def loop(index: str, count: int | str, *lines: str, step: int = 1) -> list[str]:
    """The lines for each index below `count`, or each that `step` divides."""
    advance = f"++{index}" if step == 1 else f"{index} += {step}"
    return block(f"for ({index} = 0; {index} < {count}; {advance})", *lines)


def folded(text: str) -> str:
    """The text, its long lines in several: comments at words, code after a comma or before an operator.

    A comment behind a long line goes before it.
    """
    return "".join(f"{short}\n" for line in text.splitlines() for short in _short(line))


def _short(line: str) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= WIDTH:
        return [line]
    if line.lstrip().startswith(("/*", "* ")):
        return _comment(line, indent)
    behind = re.fullmatch(r"(.*\S) (/\*.*\*/)", line)
    if behind:
        return [*_short(indent + behind[2]), *_short(behind[1])]
    end = " \\" if line.startswith("#") else ""
    lines = []
    while len(line) > WIDTH:
        head = line[: WIDTH - len(end)]
        found = ([m.end() for m in kind.finditer(head) if m.end() > len(indent) + 8] for kind in _BREAKS)
        place = next((max(places, key=lambda at: (-_depth(head[:at]), at)) for places in found if places), None)
        if place is None:
            break
        lines.append(line[:place].rstrip() + end)
        line = f"{indent}    {line[place:].lstrip()}"
    return [*lines, line]


def _depth(text: str) -> int:
    """How many brackets are open at its end."""
    return sum(text.count(opened) - text.count(closed) for opened, closed in ("()", "[]"))


def _comment(line: str, indent: str) -> list[str]:
    """The comment in several lines: below what is behind a gap of several spaces, if there is one."""
    opens = line.startswith(f"{indent}/*")
    gap = re.search(r"\S {2,}", line.lstrip())
    hang = " " * (gap.end() - 2) if gap and not opens else ""
    start = line[: len(indent) + (3 if opens else 2) + len(hang)]
    more = f"{indent}{' ' if opens else ''}* {hang}"
    return textwrap.wrap(
        line[len(start) :], WIDTH, initial_indent=start, subsequent_indent=more,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
