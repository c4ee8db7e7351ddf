"""The one entry point, `quantal`. Commands that need torch are named by module string and imported when called."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from export import __version__
from export.errors import BadInput, ExecutorError

COMMANDS = {
    "demo": ("qat.cli:demo", "Train on real data, export, verify everywhere, count the cost."),
    "train": ("qat.cli:train", "Train a network with its weights and states quantized."),
    "prune": ("qat.cli:prune", "Leave fewer neurons in a run's layers, to be trained again."),
    "export": ("qat.cli:export", "Turn a run into integers: C header, simulator, golden vectors."),
    "verify": ("export.cli:verify", "Compare every state, spike and output with torch's."),
    "cost": ("export.cli:cost", "Flash, RAM and instructions a step on each core."),
}
REFERENCE = "qat.cli:reference"  # what runs torch again for `verify --run`
BATCH = 250


def by_name(where: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "sklearn", "safetensors"):
            raise BadInput(f"this command needs {error.name}, which is not installed here") from None
        raise


class LazyGroup(click.Group):
    """Imports a command's module when the command is called, so that `quantal cost` starts without torch."""

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

    Exit code 0: good; 1: a check failed; 2: bad input, with one line that says which.
    """


def main() -> None:
    """Runs `quantal`; turns what can go wrong into one line and an exit code."""
    try:
        quantal(args=sys.argv[1:] or ["--help"], prog_name="quantal", standalone_mode=False)
    except click.ClickException as error:
        complain(error.format_message())
        sys.exit(2)
    except BadInput as error:
        complain(str(error))
        sys.exit(2)
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
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


def executor_names(_: click.Context, __: click.Parameter, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The chosen executors, or all of them."""
    from export.executors import EXECUTORS

    for name in chosen:
        if name not in EXECUTORS:
            raise click.BadParameter(f"{name!r} is no executor, expected one of {', '.join(EXECUTORS)}")
    return chosen or tuple(EXECUTORS)


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option(
    "--on",
    "executors",
    multiple=True,
    callback=executor_names,
    metavar="EXECUTOR",
    help="Only on this one; may be repeated.",
)
@click.option("--run", type=click.Path(path_type=Path), help="The training run: torch's hard forward runs again.")
@click.option("--data", type=click.Path(path_type=Path), help="With --run: the data set to take samples from.")
@click.option("--samples", type=click.IntRange(1), help="How many samples; with --run, of the task's test set.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def verify(
    build: Path, executors: tuple[str, ...], run: Path | None, data: Path | None, samples: int | None, as_json: bool
) -> None:
    """Compare every state, spike and output of every step with torch's.

    The reference is the golden vectors in BUILD, or with --run the training run itself.
    """
    from export.build import Build

    if data is not None and run is None:
        raise BadInput("--data: torch has to run on these samples; name the training run with --run")
    opened = Build.open(build)
    reports, failed = run_executors(opened, executors, *reference_for(opened, run, data, samples))
    if as_json:
        click.echo(json.dumps(reports))
    else:
        show_reports(reports)
    if failed:
        sys.exit(1)


def reference_for(
    build: Any, run: Path | None, data: Path | None, samples: int | None
) -> tuple[Callable[[], tuple[int, Any]], tuple[str, ...]]:
    """A function that gives (number of samples, batches of input and reference trace), afresh at each call.

    Also the complaints: what in the build, or between build and run, is not as it was exported.
    """
    from export.verify import batched

    if run is not None:
        function, complaints = by_name(REFERENCE)(build, run, data, samples, BATCH)
        return function, (*build.complaints, *complaints)
    x, trace = build.vectors()
    if samples is not None:
        if samples > len(x):
            raise BadInput(f"--samples: {build.path} holds vectors of {len(x)} samples; for more, name --run")
        x, trace = x[:samples], {name: values[:samples] for name, values in trace.items()}
    return lambda: (len(x), batched(x, trace, BATCH)), build.complaints


def run_executors(
    build: Any, executors: tuple[str, ...], reference: Callable[[], tuple[int, Any]], complaints: tuple[str, ...]
) -> tuple[list[dict[str, Any]], bool]:
    """The rows of `verify --json`, and whether anything failed. What failed is said on standard error."""
    from export.verify import verify as verify_on

    for line in complaints:
        complain(line)
    failed = bool(complaints)
    reports = []
    with progress() as bars:
        for name in executors:
            samples, batches = reference()
            bar = bars.add_task(name, total=samples)
            comparison, error = verify_on(build, name, batches, lambda done, bar=bar: bars.advance(bar, done))  # type: ignore[misc]
            if error:
                complain(f"{name}: {error}")
            elif comparison.values == 0:
                complain(f"{name}: nothing was compared")
            if comparison.first is not None:
                f = comparison.first
                complain(
                    f"{name}: {comparison.mismatches} mismatches; first: sample {f.sample}, step {f.step}, "
                    f"layer {f.layer}, {f.record} of neuron {f.neuron}: expected {f.expected}, got {f.got}"
                )
            failed |= error is not None or not comparison.good
            reports.append(comparison.as_json())
    return reports, failed


def show_reports(reports: list[dict[str, Any]]) -> None:
    """The comparison, as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("executor", "samples", "steps", "values", "mismatches"):
        table.add_column(column, justify="left" if column == "executor" else "right")
    for row in reports:
        table.add_row(row["executor"], *(f"{row[key]:,}" for key in ("samples", "steps", "values", "mismatches")))
    Console().print(table)


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--core", "core", help="Only this core.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def cost(build: Path, core: str | None, as_json: bool) -> None:
    """Flash, RAM and instructions a step on each core, before anything is flashed.

    Bytes are those of the cross-compiled header; instructions are counted on the emulated core over BUILD's vectors.
    """
    from export.build import Build
    from export.executors.toolchain import CORES

    if core is not None and core not in CORES:
        raise BadInput(f"--core: expected one of {', '.join(CORES)}, got {core!r}")
    opened = Build.open(build)
    if opened.complaints:
        raise BadInput(opened.complaints[0])
    rows = measure_costs(opened, [core] if core else list(CORES))
    if as_json:
        click.echo(json.dumps([row.as_json() for row in rows]))
    else:
        show_costs(rows)


def measure_costs(build: Any, cores: list[str]) -> list[Any]:
    """The cost on each core, over the golden vectors."""
    from export.cost import measure

    x, _ = build.vectors()
    rows = []
    with progress() as bars:
        for name in cores:
            bar = bars.add_task(name, total=len(x))
            rows.append(measure(build, name, x, lambda done, bar=bar: bars.advance(bar, done)))  # type: ignore[misc]
    return rows


def show_costs(rows: list[Any]) -> None:
    """The costs, as a table."""
    table = Table(box=None, pad_edge=False)
    titles = ("core", "flash tables", "flash code", "RAM state", "RAM stack", "instr/step mean", "worst")
    for title in titles:
        table.add_column(title, justify="left" if title == "core" else "right")
    for row in rows:
        numbers = (row.flash_tables, row.flash_code, row.ram_state, row.ram_stack, round(row.instructions_mean))
        table.add_row(row.core, *(f"{n:,}" for n in (*numbers, row.instructions_worst)))
    Console().print(table)
