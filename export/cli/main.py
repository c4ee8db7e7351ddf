"""The one entry point, `quantal`."""

import os
import sys
from contextlib import nullcontext

import click

from quantal.export import __version__
from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.portable import terminable
from quantal.export.cli.commands import COMMANDS, by_name
from quantal.export.cli.output import complain, worded
from quantal.export.cli.streams import UNREAD, Undelivered, streams


class LazyGroup(click.Group):
    """Imports a command's module when the command is called."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands and what they do, with no command imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = by_name(COMMANDS[cmd_name][0])
        return command


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="quantal")
def quantal() -> None:
    """Trains quantized spiking neural networks and ships them as integers, equal bit for bit.

    \b
    Exit codes:
      0    good
      1    a check failed
      2    bad input, or a file that cannot be written; one line says which
      130  interrupted (Ctrl-C)
      141  nobody read the output
      143  terminated (SIGTERM)
    """


def trains_with_others() -> bool:
    """Whether this is one of several processes that train together, which wait for each other in calls of a library.

    No handler is called there, so SIGTERM has to end them as it ends any program.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def main() -> None:
    """Runs `quantal`; turns what can go wrong into one line and an exit code."""
    with streams(), nullcontext() if trains_with_others() else terminable():
        try:
            quantal(args=sys.argv[1:] or ["--help"], prog_name="quantal", standalone_mode=False)
            click.echo(nl=False)  # the rest is delivered, or not, before the exit code is chosen
        except click.ClickException as error:
            complain(error.format_message())
            sys.exit(2)
        except Undelivered as error:
            if error.code != UNREAD:
                complain(str(error))
            sys.exit(error.code)
        except (BadInput, OSError) as error:
            complain(worded(error))
            sys.exit(2)
        except MemoryError:
            complain("there is not enough memory for this")
            sys.exit(2)
        except ExecutorError as error:
            complain(str(error))
            sys.exit(1)
        except (click.Abort, KeyboardInterrupt):
            complain("interrupted")
            sys.exit(130)
