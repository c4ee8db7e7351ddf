"""The one entry point, `quantal`. Commands that need torch are named by module string and imported when called."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import click
from quantal.export import __version__
from quantal.export.base.errors import BadInput, ExecutorError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

COMMANDS = {
    "demo": ("quantal.qat.cli.commands:demo", "Train on real data, export, verify everywhere, count the cost."),
    "train": ("quantal.qat.cli.commands:train", "Train a network with its weights and states quantized."),
    "prune": ("quantal.qat.cli.commands:prune", "Leave fewer neurons in a run's layers, to be trained again."),
    "export": ("quantal.qat.cli.commands:export", "Turn a run into integers: C header, simulator, golden vectors."),
    "verify": ("quantal.export.cli.main:verify", "Compare every state, spike and output with torch's."),
    "cost": ("quantal.export.cli.main:cost", "Flash, RAM and instructions a step on each core."),
}
REFERENCE = "quantal.qat.cli.commands:reference"  # what runs torch again for `verify --run`
BATCH = 250
UNREAD = 141  # what shells say of a program that ends because nobody reads its output: 128 + SIGPIPE


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

    Exit code 0: good; 1: a check failed; 2: bad input, or a file that cannot be written, with one line that says which;
    141: nobody read the output.
    """


class Undelivered(Exception):
    """Standard output takes nothing more."""

    def __init__(self, error: OSError):
        super().__init__(f"standard output: {error.strerror}")
        self.code = UNREAD if isinstance(error, BrokenPipeError) else 2


class Stream:
    """Standard output or error, with an answer of our own to what cannot be written: click and rich exit with 1."""

    def __init__(self, stream: Any, answer: Callable[[OSError], None]):
        self._stream, self._answer = stream, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> "Stream":
        """The same in bytes."""
        return Stream(self._stream.buffer, self._answer)

    def write(self, content: Any) -> int:
        """Writes the content, if it can be."""
        try:
            self._stream.write(content)
        except OSError as error:
            self._answer(error)
        return len(content)

    def flush(self) -> None:
        """Flushes, if it can be."""
        try:
            self._stream.flush()
        except OSError as error:
            self._answer(error)


@contextmanager
def streams() -> Iterator[None]:
    """In the block, what cannot be written is Undelivered of standard output, and dropped of standard error."""

    def undelivered(error: OSError) -> None:
        raise Undelivered(error) from None

    out, err = sys.stdout, sys.stderr
    said: Any = out and Stream(out, undelivered)
    complained: Any = err and Stream(err, lambda error: None)
    with redirect_stdout(said), redirect_stderr(complained):
        try:
            yield
        finally:  # what the interpreter cannot flush when it ends would change the exit code
            for stream in filter(None, (out, err)):
                try:
                    stream.flush()
                except OSError:
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, stream.fileno())
                    os.close(nowhere)


def main() -> None:
    """Runs `quantal`; turns what can go wrong into one line and an exit code."""
    with streams():
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
        except BadInput as error:
            complain(str(error))
            sys.exit(2)
        except OSError as error:
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


@contextmanager
def answer(code: int) -> Iterator[None]:
    """Ends the command with the code of what failed, if anything did, even where what the block shows is not read."""
    try:
        yield
    except Undelivered:
        if not code:
            raise
    if code:
        sys.exit(code)


def finish(measure: Callable[[], int], rows: list[Any], show: Callable[[], None]) -> None:
    """Ends the command: `measure` fills the rows and gives the exit code. Rows are shown whatever interrupts it."""
    try:
        code = measure()
    except BaseException:
        if rows:
            show()
        raise
    with answer(code):
        show()


def worded(error: Exception) -> str:
    """What went wrong, as one line."""
    named = isinstance(error, OSError) and error.filename
    return f"{error.filename}: {error.strerror}" if named else str(error)  # type: ignore[attr-defined]


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
    from quantal.export.run import EXECUTORS

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
@click.option("--timeout", type=click.IntRange(1), help="Seconds that each process may take [120, and more with work].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def verify(
    build: Path,
    executors: tuple[str, ...],
    run: Path | None,
    data: Path | None,
    samples: int | None,
    timeout: int | None,
    as_json: bool,
) -> None:
    """Compare every state, spike and output of every step with torch's, and all else that a program may call.

    The reference is the golden vectors in BUILD, or with --run the training run itself. What hangs is stopped: an
    emulated core after the instructions that the network could never take.
    """
    from quantal.export.build import Build
    from quantal.export.run.bounds import Bounds

    if data is not None and run is None:
        raise BadInput("--data: torch has to run on these samples; name the training run with --run")
    opened = Build.open(build)
    reports: list[dict[str, Any]] = []
    reference = reference_for(opened, run, data, samples)
    finish(
        lambda: run_executors(opened, executors, *reference, reports, Bounds(timeout)),
        reports,
        lambda: click.echo(json.dumps(reports)) if as_json else show_reports(reports),
    )


def reference_for(
    build: Any, run: Path | None, data: Path | None, samples: int | None
) -> tuple[Callable[[], tuple[int, Any]], tuple[str, ...]]:
    """A function that gives (number of samples, batches of input and reference trace), afresh at each call.

    Also the complaints: what in the build, or between build and run, is not as it was exported.
    """
    from quantal.export.run.verify import batched

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
    build: Any,
    executors: tuple[str, ...],
    reference: Callable[[], tuple[int, Any]],
    complaints: tuple[str, ...],
    reports: list[dict[str, Any]],
    bounds: Any = None,
) -> int:
    """Adds the rows of `verify --json` to `reports`; the exit code. What failed is said on standard error.

    1 where a check failed, else 2 where an executor cannot run here.
    """
    from quantal.export.run.bounds import GENEROUS
    from quantal.export.run.verify import verify as verify_on

    for line in complaints:
        complain(line)
    codes = {1} if complaints else set()
    with progress() as bars:
        for name in executors:
            samples, batches = reference()
            bar = bars.add_task(name, total=samples)
            comparison, error = verify_on(build, name, batches, partial(bars.advance, bar), bounds or GENEROUS)
            row = comparison.as_json()
            if error is not None:
                row["error"] = " ".join(worded(error).split())
                codes.add(1 if isinstance(error, ExecutorError) else 2)
                complain(f"{name}: {row['error']}")
            elif comparison.values == 0:
                complain(f"{name}: nothing was compared")
            if comparison.first is not None:
                f = comparison.first
                complain(
                    f"{name}: {comparison.mismatches} mismatches; first: sample {f.sample}, step {f.step}, "
                    f"layer {f.layer}, {f.record} of neuron {f.neuron}: expected {f.expected}, got {f.got}"
                )
            if comparison.mismatches or (error is None and not comparison.good):
                codes.add(1)
            reports.append(row)
    return min(codes, default=0)


def show_reports(reports: list[dict[str, Any]]) -> None:
    """The comparison, as a table; beside what did not run to its end, why."""
    table = Table(box=None, pad_edge=False)
    counts = ("samples", "steps", "values", "mismatches")
    for column in ("executor", *counts):
        table.add_column(column, justify="left" if column == "executor" else "right")
    if any("error" in row for row in reports):
        table.add_column("error", overflow="fold")
    for row in reports:
        error = [row["error"]] if "error" in row else []
        table.add_row(row["executor"], *(f"{row[key]:,}" for key in counts), *error)
    Console().print(table)


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--core", "core", help="Only this core.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def cost(build: Path, core: str | None, as_json: bool) -> None:
    """Flash, RAM and instructions a step on each core, before anything is flashed.

    Bytes are those of the cross-compiled header; instructions are counted on the emulated core over BUILD's vectors.
    """
    from quantal.export.base.toolchain import CORES
    from quantal.export.build import Build

    if core is not None and core not in CORES:
        raise BadInput(f"--core: expected one of {', '.join(CORES)}, got {core!r}")
    opened = Build.open(build)
    if opened.complaints:
        raise BadInput(opened.complaints[0])
    rows: list[Any] = []
    finish(
        lambda: measure_costs(opened, [core] if core else list(CORES), rows),
        rows,
        lambda: click.echo(json.dumps([row.as_json() for row in rows])) if as_json else show_costs(rows),
    )


def measure_costs(build: Any, cores: list[str], rows: list[Any]) -> int:
    """Adds the cost on each core, over the golden vectors, to `rows`; the exit code, as `run_executors` has it."""
    from quantal.export.report.cost import measure

    x, _ = build.vectors()
    codes = set()
    with progress() as bars:
        for name in cores:
            bar = bars.add_task(name, total=len(x))
            try:
                rows.append(measure(build, name, x, partial(bars.advance, bar)))
            except (BadInput, ExecutorError, OSError) as error:
                codes.add(1 if isinstance(error, ExecutorError) else 2)
                complain(f"{name}: {worded(error)}")
    return min(codes, default=0)


def show_costs(rows: list[Any]) -> None:
    """The costs, as a table; without any, nothing."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    titles = ("core", "flash tables", "flash code", "RAM state", "RAM stack", "instr/step mean", "worst")
    for title in titles:
        table.add_column(title, justify="left" if title == "core" else "right")
    for row in rows:
        numbers = (row.flash_tables, row.flash_code, row.ram_state, row.ram_stack, round(row.instructions_mean))
        table.add_row(row.core, *(f"{n:,}" for n in (*numbers, row.instructions_worst)))
    Console().print(table)
