"""Jinja, set up once: templates lay out text, Python computes it. An unknown name in a template is an error."""

from collections.abc import Iterable
from importlib import resources

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from quantal.export.base.errors import BadInput

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(str(resources.files("quantal.templates"))),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)


def render(template: str, **names: object) -> str:
    """The text of a template."""
    return _ENVIRONMENT.get_template(template).render(**names)


def wrapped(values: Iterable[int], indent: str = "    ", width: int = 110) -> str:
    """Integers with commas between them, in lines of at most `width`."""
    lines, line = [], ""
    for word in map(str, values):
        if len(line) + len(word) + 2 > width - len(indent):
            lines.append(line.rstrip())
            line = ""
        line += word + ", "
    return indent + f"\n{indent}".join([*lines, line.rstrip(", ")])


def word_bits(lo: int, hi: int) -> int:
    """8, 16 or 32: the smallest machine word that holds [lo, hi], signed where lo < 0."""
    for bits in (8, 16, 32):
        if (-(1 << (bits - 1)) <= lo and hi < 1 << (bits - 1)) if lo < 0 else hi < 1 << bits:
            return bits
    raise BadInput(f"[{lo}, {hi}] does not fit in 32 bits")
