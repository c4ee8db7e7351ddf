"""`quantal verify`."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.build import Build
from quantal.export.cli.commands import REFERENCE, by_name
from quantal.export.cli.output import complain, progress, table, worded
from quantal.export.cli.streams import finish
from quantal.export.run import EXECUTORS
from quantal.export.run.bounds import GENEROUS, Bounds
from quantal.export.run.verify import BATCH, Reference, stored
from quantal.export.run.verify import verify as verify_on


def executor_names(_: click.Context, __: click.Parameter, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The chosen executors, or all of them."""
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

    The reference is the golden vectors in BUILD, or with --run the training run itself. What hangs is stopped: a
    compiler and a program after the seconds of --timeout, an emulated core after the instructions that the network
    could never take.
    """
    if data is not None and run is None:
        raise BadInput("--data: torch has to run on these samples; name the training run with --run")
    opened = Build.open(build)
    reference, complaints = reference_for(opened, run, data, samples)
    reports: list[dict[str, Any]] = []
    finish(
        lambda: run_executors(opened, executors, reference, complaints, reports, Bounds(timeout)),
        reports,
        lambda: click.echo(json.dumps(reports)) if as_json else show(reports),
    )


def reference_for(
    build: Build, run: Path | None, data: Path | None, samples: int | None
) -> tuple[Reference, tuple[str, ...]]:
    """The reference, and complaints: what in the build, or between build and run, is not as it was exported."""
    if run is None:
        return stored(build, samples), build.complaints
    reference, complaints = by_name(REFERENCE)(build, run, data, samples)
    return reference, (*build.complaints, *complaints)


def run_executors(
    build: Build,
    executors: tuple[str, ...],
    reference: Reference,
    complaints: tuple[str, ...],
    reports: list[dict[str, Any]],
    bounds: Bounds = GENEROUS,
) -> int:
    """Adds the rows of `verify --json` to `reports`; the exit code. What failed is said on standard error.

    1 where a check failed, else 2 where an executor cannot run here.
    """
    for line in complaints:
        complain(line)
    codes = {1} if complaints else set()
    with progress() as bars:
        for name in executors:
            bar = bars.add_task(name, total=reference.samples)
            comparison, error = verify_on(build, name, reference.batches(BATCH), partial(bars.advance, bar), bounds)
            row = comparison.as_json()
            if error is not None:
                row["error"] = worded(error)
                codes.add(1 if isinstance(error, ExecutorError) else 2)
                complain(f"{name}: {row['error']}")
            elif comparison.values == 0:
                complain(f"{name}: nothing was compared")
            if comparison.first is not None:
                complain(f"{name}: {comparison.mismatches} mismatches; first: {comparison.first}")
            if comparison.mismatches or (error is None and not comparison.good):
                codes.add(1)
            reports.append(row)
    return min(codes, default=0)


COUNTS = ("samples", "steps", "values", "mismatches")


def show(reports: list[dict[str, Any]]) -> None:
    """The comparison, as a table; behind the row of what did not run to its end, why."""
    rows = [
        (row["executor"], *(f"{row[count]:,}" for count in COUNTS), *([row["error"]] if "error" in row else ()))
        for row in reports
    ]
    table(("executor", *COUNTS), rows)
