"""What commands show: complaints and progress bars on standard error, tables on standard output."""

from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def worded(error: Exception) -> str:
    """What went wrong, as one line."""
    named = isinstance(error, OSError) and error.filename
    text = f"{error.filename}: {error.strerror}" if named else str(error)  # type: ignore[attr-defined]
    return " ".join(text.split())


def complain(line: str) -> None:
    """One line on standard error."""
    click.echo(f"quantal: {' '.join(line.split())}", err=True)


def progress() -> Progress:
    """Progress bars on standard error, gone when done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The rows under their titles, a line each, however wide the terminal is: the first column to the left.

    A row may have one more cell than there are titles: words that stand at its end as they are.
    """
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=False))
        click.echo("  ".join([first.strip().ljust(widths[0]), *others, *line[len(titles) :]]))
