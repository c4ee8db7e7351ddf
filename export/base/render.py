"""Jinja, set up once: templates lay out text, Python computes it. An unknown name in a template is an error."""

from collections.abc import Iterable
from importlib import resources

from jinja2 import Environment, FileSystemLoader, StrictUndefined

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


def wrapped(values: Iterable[int], indent: str = "    ", width: int = 100) -> str:
    """Integers with commas between them, in lines of at most `width`."""
    lines, line = [], ""
    for word in map(str, values):
        if len(line) + len(word) + 2 > width - len(indent):
            lines.append(line.rstrip())
            line = ""
        line += word + ", "
    return indent + f"\n{indent}".join([*lines, line.rstrip(", ")])
