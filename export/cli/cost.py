"""`quantal cost`."""

import json
from functools import partial
from pathlib import Path

import click

from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.toolchain import CORES
from quantal.export.build import Build
from quantal.export.cli.output import complain, progress, table, worded
from quantal.export.cli.streams import finish
from quantal.export.report.cost import Cost, measure


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--core", "core", help="Only this core.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def cost(build: Path, core: str | None, as_json: bool) -> None:
    """Flash, RAM and instructions a step on each core, before anything is flashed.

    Bytes are those of the cross-compiled header; instructions are counted on the emulated core over BUILD's vectors.
    """
    if core is not None and core not in CORES:
        raise BadInput(f"--core: expected one of {', '.join(CORES)}, got {core!r}")
    opened = Build.open(build)
    if opened.complaints:
        raise BadInput(opened.complaints[0])
    costs: list[Cost] = []
    finish(
        lambda: measure_costs(opened, (core,) if core else tuple(CORES), costs),
        costs,
        lambda: click.echo(json.dumps([one.as_json() for one in costs])) if as_json else show(costs),
    )


def measure_costs(build: Build, cores: tuple[str, ...], costs: list[Cost]) -> int:
    """Adds the cost on each core, over the golden vectors, to `costs`; the exit code.

    1 where the header does not run to its end on a core, else 2 where a core cannot be emulated here.
    """
    x, _ = build.vectors()
    codes = set()
    with progress() as bars:
        for name in cores:
            bar = bars.add_task(name, total=len(x))
            try:
                costs.append(measure(build, name, x, partial(bars.advance, bar)))
            except (BadInput, ExecutorError, OSError) as error:
                codes.add(1 if isinstance(error, ExecutorError) else 2)
                complain(f"{name}: {worded(error)}")
    return min(codes, default=0)


TITLES = ("core", "flash tables", "flash code", "RAM state", "RAM stack", "instr/step mean", "worst")


def show(costs: list[Cost]) -> None:
    """The costs, as a table; without any, nothing."""
    numbers = [
        (c.flash_tables, c.flash_code, c.ram_state, c.ram_stack, round(c.instructions_mean), c.instructions_worst)
        for c in costs
    ]
    if costs:
        table(TITLES, [(c.core, *(f"{n:,}" for n in row)) for c, row in zip(costs, numbers, strict=True)])
