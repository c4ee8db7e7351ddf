"""What the commands that need torch share: several processes of one command, and what they print."""

from pathlib import Path
from typing import Any

import click
import torch

from quantal.export.base import portable
from quantal.export.base.errors import BadInput
from quantal.qat.training import parallel


class Shared(click.Command):
    """A command that torchrun may start in several processes; where it fails, one of them says so."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the arguments."""
        with parallel.one_voice():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with parallel.joined(), parallel.one_voice():
            return super().invoke(ctx)


def alone(command: str) -> None:
    """Raises BadInput where torchrun started several processes of the command."""
    if parallel.size() > 1:
        raise BadInput(f"{command}: runs in one process; start it without torchrun")


def say(line: str) -> None:
    """Prints the line once, however many processes there are."""
    if parallel.rank() == 0:
        click.echo(line)


def say_peak_memory() -> None:
    """The most memory that was resident since this process began; of several processes, in the one that took most.

    Where the system does not tell, nothing.
    """
    here = parallel.largest(portable.peak_memory())
    there = parallel.largest(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
    peaks = [f"{where}{peak / 2**20:.0f} MiB" for where, peak in (("", here), ("on the GPU ", there)) if peak]
    if peaks:
        say(f"peak memory {', '.join(peaks)}" + (" a process" if parallel.size() > 1 else ""))


def list_files(folder: Path) -> None:
    """The files in the folder, with their sizes in bytes."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            click.echo(f"{file.stat().st_size:>12,} {file}")
