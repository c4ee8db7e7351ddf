"""`quantal prune`."""

from pathlib import Path

import click

from quantal.export.base.files import check_free
from quantal.export.cli.output import progress
from quantal.qat.cli.common import Shared, alone
from quantal.qat.methods import pruning
from quantal.qat.training import objectives
from quantal.qat.training.measure import measure
from quantal.qat.training.run import Run, load_data


def _kept(_: click.Context, __: click.Parameter, value: str) -> int | float:
    """A count, or with a point in it a share of (0, 1]."""
    try:
        number = float(value) if "." in value else int(value)
    except ValueError:
        number = 0
    if number <= 0 or (isinstance(number, float) and number > 1):
        raise click.BadParameter(f"expected a share up to 1.0, such as 0.5, or a count from 1, got {value!r}")
    return number


@click.command(cls=Shared)
@click.argument("source", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--keep", required=True, callback=_kept, help="Neurons that are left: a share, as 0.5, or a count.")
@click.option(
    "--layer", "layers", multiple=True, help="Only this layer; may be repeated. All but the readout, if none."
)
@click.option("--data", type=click.Path(path_type=Path), help="The run's data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The pruned run's folder.")
def prune(source: Path, keep: int | float, layers: tuple[str, ...], data: Path | None, out: Path) -> None:
    """Take neurons out of a run's layers, so that the others stand for them: spectral pruning.

    The pruned run is to be trained again, best quantized only then:

    \b
        quantal prune full --keep 0.5 --out pruned
        quantal train --from pruned --network pruned/network.toml --weights 4 --states 4 --out run
    """
    alone("prune")
    check_free(out)
    run = Run.open(source)
    kept = pruning.sizes(run.config, keep, layers)
    dataset = load_data(run.config, data)
    with progress() as bars:
        pruned, cuts = pruning.prune(run, dataset, kept, out, bars)
        measures = measure(pruned, dataset.test, bars)
    for layer in run.config.layers:
        if layer.name in cuts:
            share = 100 * cuts[layer.name].share
            click.echo(f"{layer.name}: {kept[layer.name]} of {layer.size} neurons, {share:.1f} % of the spikes' power")
    click.echo(f"test {objectives.worded(measures, run.config.training.loss)}")
