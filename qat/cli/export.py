"""`quantal export`."""

from pathlib import Path

import click

from quantal.export.base.files import check_free
from quantal.export.base.names import check_network
from quantal.export.cli.output import progress
from quantal.qat.cli.common import Shared, alone, list_files
from quantal.qat.reference import export_run
from quantal.qat.training.run import Run


@click.command(cls=Shared)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The build's folder.")
@click.option("--name", help="The network's name in C and in file names; the task's by default.")
def export(run: Path, out: Path, name: str | None) -> None:
    """Turn a run into integers: network.json, C header, simulator, ONNX, test program and golden vectors.

    The golden vectors are what torch's hard forward does on the test samples that the run keeps.
    """
    alone("export")
    check_free(out)
    if name is not None:
        check_network(name, "--name")
    opened = Run.open(run)
    with progress() as bars:
        bars.add_task(f"exporting {run}", total=None)
        export_run(opened, out, name)
    list_files(out)
