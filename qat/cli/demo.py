"""`quantal demo`."""

from pathlib import Path
from typing import Any

import click

from quantal.export.base.files import check_free
from quantal.export.base.toolchain import CORES
from quantal.export.build import Build
from quantal.export.cli import cost, verify
from quantal.export.cli.output import progress
from quantal.export.cli.streams import ending
from quantal.export.report.cost import Cost
from quantal.export.run import EXECUTORS
from quantal.export.run.verify import stored
from quantal.qat.cli.common import Shared, alone, list_files, say_peak_memory
from quantal.qat.config.preset import preset
from quantal.qat.reference import export_run
from quantal.qat.training import objectives, sitting
from quantal.qat.training.run import load_data
from quantal.qat.training.start import new_run


@click.command(cls=Shared)
@click.option("--out", default="quantal-demo", show_default=True, type=click.Path(path_type=Path), help="A new folder.")
def demo(out: Path) -> None:
    """Train on real data, export, verify everywhere, count the cost: the whole way, in minutes.

    A recurrent network reads handwritten digits with 4-bit weights and 8-bit states.
    """
    alone("demo")
    check_free(out)
    config = preset("digits")
    dataset = load_data(config, None)

    def say(command: str) -> None:
        click.secho(f"$ quantal {command}", bold=True)

    say(f"train --task digits --out {out}/run")
    run = new_run(out / "run", config, dataset)
    with progress() as bars:
        measures = sitting.train(run, dataset, config.training.epochs, bars)
    say_peak_memory()
    click.echo(f"test {objectives.worded(measures, config.training.loss)}")
    say(f"export {out}/run --out {out}/build")
    export_run(run, out / "build")
    list_files(out / "build")
    build = Build.open(out / "build")
    say(f"verify {out}/build")
    reports: list[dict[str, Any]] = []
    verified = verify.run_executors(build, tuple(EXECUTORS), stored(build), build.complaints, reports)
    costs: list[Cost] = []
    with ending(verified):
        verify.show(reports)
        say(f"cost {out}/build")
        counted = cost.measure_costs(build, tuple(CORES), costs)
    with ending(counted):
        cost.show(costs)
